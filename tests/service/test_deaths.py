"""What is left, and what clients get, when AirLab or an engine is killed without a warning."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import MakeLab
from tests.support.service import BOUND_S, GONE_S, Service, events_of, temporary_lab, wait_until

LONG = {"max_tokens": 3000, "ignore_eos": True}


def test_fault_103_killed_service_leaves_no_engine(make_lab: MakeLab, engine_kind: str) -> None:
    """kill -9 gives AirLab no chance to tidy up: the kernel must."""
    lab = make_lab(engine_kind, models={"small": {"context_length": 4096}})

    with lab.serve() as service, service.stream(**LONG) as answer:
        lines = answer.iter_lines()  # kept: when it goes, httpx closes the stream
        next(lines)
        engine = service.engine()
        service.signal(signal.SIGKILL)
        service.wait()
        wait_until(lambda: not engine.alive, "the engine is gone", bound_s=GONE_S)


def test_fault_103_service_killed_while_a_model_loads_leaves_no_engine(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {"preload": True}})
    lab.fault("small", load_forever=True)

    with lab.serve() as service:
        engine = service.engine()
        service.signal(signal.SIGKILL)
        service.wait()
        wait_until(lambda: not engine.alive, "the engine is gone", bound_s=GONE_S)


def test_successor_of_a_killed_service_clears_its_sockets_and_serves(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.serve() as killed:
        assert killed.chat().status_code == 200
        killed.signal(signal.SIGKILL)
        killed.wait()
    assert len(lab.sockets()) == 1

    with lab.serve() as service:
        assert lab.sockets() == []
        assert service.chat().status_code == 200


def test_fault_100_engine_killed_in_a_stream_ends_it_with_an_error_and_the_next_request_gets_a_fresh_one(
    make_lab: MakeLab, engine_kind: str
) -> None:
    lab = make_lab(engine_kind, models={"small": {"context_length": 4096}})

    with lab.serve() as service:
        with service.stream(**LONG) as answer:
            lines = answer.iter_lines()
            next(lines)
            dead = service.engine()
            dead.kill()
            events = [line.removeprefix("data: ") for line in lines if line]

        assert "[DONE]" not in events
        error = json.loads(events[-1])["error"]
        assert (error["type"], error["code"]) == ("server_error", "upstream_error")
        assert "killed by signal 9 while it served; its last lines: " in error["message"]
        assert service.chat().status_code == 200
        assert service.engine().pid != dead.pid


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_request_whose_engine_dies_before_the_first_byte_is_answered_by_a_fresh_one(
    make_lab: MakeLab, stream: bool
) -> None:
    lab = make_lab()
    lab.fault("small", starts=[{"die_after_tokens": 0}, {}])

    with lab.serve() as service:
        answer = service.chat(stream=stream)

        assert answer.status_code == 200, answer.text
        assert "word1" in answer.text
        assert service.model()["state"] == "ready"


def test_request_that_kills_its_second_engine_too_is_a_502(make_lab: MakeLab) -> None:
    """A request that is itself the cause must not go round for ever."""
    lab = make_lab()
    lab.fault("small", die_after_tokens=0)

    with lab.serve() as service:
        answer = service.chat()

        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_error"
        wait_until(lambda: service.http.get("/health").json()["status"] == "degraded", "health says so")


def test_engine_that_died_idle_is_replaced_for_the_next_request(make_lab: MakeLab, engine_kind: str) -> None:
    lab = make_lab(engine_kind)

    with lab.serve() as service:
        assert service.chat(max_tokens=1).status_code == 200
        dead = service.engine()
        dead.kill()

        assert service.chat(max_tokens=1).status_code == 200
        assert service.engine().pid != dead.pid


def test_everybody_who_waits_is_served_by_the_engine_that_follows_a_dead_one(
    make_lab: MakeLab, background: ThreadPoolExecutor
) -> None:
    lab = make_lab()
    gate = lab.folder / "gate"
    lab.fault("small", starts=[{"token_gate_file": str(gate)}, {}])

    with lab.serve() as service, service.stream() as open_stream:
        lines = open_stream.iter_lines()
        next(lines)
        asked = [background.submit(service.chat) for _ in range(3)]
        service.until_model("small", lambda row: row["waiting"] == 3, "3 wait")

        service.engine().kill()

        assert [answer.result(BOUND_S).status_code for answer in asked] == [200] * 3


FAULTS: dict[str, dict[str, Any]] = {
    "broken-off": {"close_after_tokens": 1},
    "no-done": {"no_done": True},
    "garbage": {"garbage_sse": True},
    "huge": {"huge_line": True},
    "bad-utf8": {"bad_utf8": True},
}


@pytest.fixture(scope="module")
def strange() -> Iterator[Service]:
    """A service with one model for each way in which an engine can answer strangely."""
    with temporary_lab("fake", models={key: {} for key in FAULTS}, profile={"max_loaded": len(FAULTS)}) as lab:
        for key, script in FAULTS.items():
            lab.fault(key, **script)
        with lab.serve() as service:
            yield service


@pytest.mark.parametrize("key", FAULTS)
def test_engine_that_answers_strangely_harms_nobody_else(strange: Service, key: str) -> None:
    """Whatever comes out of an engine, the stream ends and the next request is served."""
    with strange.stream(model=key) as answer:
        assert answer.status_code == 200
        assert answer.read().endswith(b"\n\n")
    assert strange.chat(model=key).status_code in {200, 502}
    assert strange.http.get("/health").json()["status"] == "ok"


def test_stalled_stream_ends_when_its_client_leaves_and_events_were_all_passed_on(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.fault("small", starts=[{"stall_after_tokens": 2}])

    with lab.serve() as service:
        with service.stream() as answer:
            lines = answer.iter_lines()
            said = [next(lines) for _ in range(5)]
        assert "word2" in said[4]
        service.until_model("small", lambda row: row["busy"] == 0, "the slot is free")


def test_whole_stream_passes_unchanged(make_lab: MakeLab) -> None:
    """llama-server's bytes go out as they are, however they were cut on the way."""
    lab = make_lab()
    lab.fault("small", tokens=300)

    with lab.serve() as service, service.stream(max_tokens=1000) as answer:
        *chunks, _ = events_of(answer)

    said = "".join(json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert said == " ".join(f"word{number}" for number in range(1, 301))
