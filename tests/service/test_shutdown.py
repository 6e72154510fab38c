"""How AirLab ends: open work first, nothing left, and at once when told a second time."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.service import BOUND_S, Lab, Service, wait_until

AT_ONCE_S = 10.0
"""Far below the 20 s that open work is given."""


@contextmanager
def streaming(lab: Lab, streams: int) -> Iterator[tuple[Service, list[Future[list[str]]]]]:
    """A service with streams that have begun and wait for ``gate``; the lines of each, once it has ended."""
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    with ThreadPoolExecutor(streams + 4) as pool, lab.serve() as service, ExitStack() as stack:
        stack.callback(gate.touch)  # whatever waits for it must not hold the test up
        lines = []
        for _ in range(streams):
            answer = stack.enter_context(service.stream())
            lines.append(answer.iter_lines())
            next(lines[-1])
        yield service, [pool.submit(list, rest) for rest in lines]


def begin_to_stop(service: Service) -> None:
    service.signal(signal.SIGTERM)
    wait_until(lambda: service.http.get("/health").status_code == 503, "health says that it stops")


def hurried_to_its_end(service: Service) -> None:
    """Waited for: a third signal, that of the test's end, may come when it is all done and listens to none any more."""
    service.signal(signal.SIGTERM)
    assert service.wait() == 0


def test_fault_113_open_streams_are_finished_before_the_end(make_lab: MakeLab) -> None:
    lab = make_lab(profile={"parallel": 3})
    with streaming(lab, 3) as (service, ends):
        begin_to_stop(service)
        (lab.folder / "gate").touch()

        for end in ends:
            assert [line for line in end.result(BOUND_S) if line][-1] == "data: [DONE]"
        assert service.wait() == 0


def test_fault_113_second_signal_ends_open_streams_with_an_error_and_without_done(make_lab: MakeLab) -> None:
    lab = make_lab(profile={"parallel": 3})
    with streaming(lab, 3) as (service, ends):
        begin_to_stop(service)
        service.signal(signal.SIGTERM)

        assert service.wait(AT_ONCE_S) == 0
        for end in ends:
            *_, last = (line for line in end.result(BOUND_S) if line)
            assert "shutting down" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert lab.engine_processes() == []


def test_while_it_drains_health_is_503_and_new_work_is_refused(make_lab: MakeLab) -> None:
    with streaming(make_lab(), 1) as (service, _):
        begin_to_stop(service)

        health = service.http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "degraded")
        refused = service.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_unavailable"
        assert int(refused.headers["retry-after"]) >= 1
        hurried_to_its_end(service)


def test_who_waits_for_a_slot_is_refused_when_it_drains(make_lab: MakeLab) -> None:
    with streaming(make_lab(), 1) as (service, _), ThreadPoolExecutor() as pool:
        waiting = pool.submit(service.chat)
        service.until_model("small", lambda row: row["waiting"] == 1, "one waits")
        begin_to_stop(service)

        assert waiting.result(BOUND_S).status_code == 503
        hurried_to_its_end(service)


def test_shutdown_by_request_finishes_open_work_and_exits_0(make_lab: MakeLab) -> None:
    lab = make_lab()
    with streaming(lab, 1) as (service, [end]):
        answer = service.http.post("/shutdown")
        assert (answer.status_code, answer.json()["status"]) == (202, "success")
        (lab.folder / "gate").touch()

        assert [line for line in end.result(BOUND_S) if line][-1] == "data: [DONE]"
        assert service.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_service_ends_at_once(make_lab: MakeLab, number: int) -> None:
    lab = make_lab()
    with lab.serve() as service:
        service.chat()
        service.signal(number)

        assert service.wait(AT_ONCE_S) == 0
        with pytest.raises(httpx.ConnectError):
            service.http.get("/health")
    assert list(lab.folder.glob("airlab-*")) == [], "the folder of its sockets is gone, too"


def test_service_whose_model_still_loads_ends_at_once(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {"preload": True}})
    lab.fault("small", load_forever=True)
    with lab.serve() as service:
        service.engine()
        service.signal(signal.SIGTERM)

        assert service.wait(AT_ONCE_S) == 0


def test_engine_that_is_deaf_to_sigterm_does_not_outlive_the_service(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.fault("small", ignore_sigterm=True)
    with lab.serve() as service:
        service.chat()
        service.signal(signal.SIGTERM)

        assert service.wait() == 0
        assert lab.engine_processes() == []


def test_turn_with_tools_is_finished_before_the_end(make_lab: MakeLab) -> None:
    """Between two rounds a turn holds no model: it must not lose its model, its tools and its store for that."""
    lab = make_lab(models={"small": {"tool_mode": "guided", "context_length": 4096}})
    gate = lab.folder / "gate"
    decision = json.dumps({"tool": "get_current_time", "arguments": {}})
    lab.fault("small", token_gate_file=str(gate), replies=[decision, '{"tool": "none"}', "It is late."])
    said = {"messages": [{"role": "user", "content": "How late is it?"}], "enable_tools": True, "session_id": "s"}
    with ThreadPoolExecutor(1) as pool, lab.serve() as service:
        turn = pool.submit(service.http.post, "/chat", json=said)
        service.until_model("small", lambda row: bool(row["busy"]), "busy with the first decision")
        begin_to_stop(service)
        refused = service.http.post("/chat", json=said)
        gate.touch()

        answer = turn.result(BOUND_S)
        assert refused.status_code == 503
        assert answer.status_code == 200, answer.text
        assert answer.json()["tools_used"] == ["get_current_time()"]
        assert answer.json()["response"] == "It is late."
        assert service.wait() == 0
