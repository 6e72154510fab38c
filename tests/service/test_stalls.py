"""What clients get, and what is kept, when an engine hangs, dies or is not done in time; by an AirLab in a hurry."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.gguf import minimal_gguf
from tests.support.service import BOUND_S, CHAT, HELLO, Lab, Service, wait_until

HASTY = "tests.soak.hasty"
HUNG = {"health_ok_but_hung": True, "ignore_sigterm": True}
ENDLESS = {"tokens": 100_000, "token_s": 0.05}


def turn_events(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of a turn's events."""
    lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(names, data, strict=True))


def last_turn(service: Service, session: str) -> dict[str, Any]:
    found = service.http.get("/sessions").raise_for_status().json()["sessions"]
    turn: dict[str, Any] = next(each["last_turn"] for each in found if each["session_id"] == session)
    return turn


def test_fault_099_request_whose_engines_hang_is_told_so_and_the_next_is_served(make_lab: MakeLab) -> None:
    """The first engine that hangs is replaced for it; one that hangs again is not the request's to wait for."""
    lab = make_lab(program=HASTY)
    lab.fault("small", starts=[HUNG, HUNG, {}])
    with lab.serve() as service:
        answer = service.chat()
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "upstream_stalled")
        assert "it had work and sent nothing for" in error["message"]
        assert service.chat().status_code == 200


@pytest.mark.parametrize("ping", [{}, {"ping_s": 0.1}], ids=["silent", "pings"])
def test_fault_099_stream_that_stalls_ends_with_an_error_and_without_done(make_lab: MakeLab, ping: Any) -> None:
    lab = make_lab(program=HASTY)
    lab.fault("small", starts=[{"stall_after_tokens": 2, **ping}, {}])
    with lab.serve() as service:
        with service.stream() as answer:
            events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        assert "word2" in events[-2]
        assert json.loads(events[-1])["error"]["code"] == "upstream_stalled"
        assert service.chat().status_code == 200


def test_fault_099_real_engine_that_stands_still_is_replaced(make_lab: MakeLab, engine_kind: str) -> None:
    """Stopped as a whole: as for a call of a driver that never returns, nothing of it runs, and nothing ends."""
    lab = make_lab(engine_kind, program=HASTY, models={"small": {"context_length": 4096}})
    with lab.serve() as service:
        with service.stream(max_tokens=3000, ignore_eos=True) as answer:
            lines = answer.iter_lines()
            next(lines)
            still = service.engine()
            os.kill(still.pid, signal.SIGSTOP)
            *_, last = (line for line in lines if line.startswith("data: "))
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_stalled"
        assert service.chat().status_code == 200
        assert not still.alive


def test_fault_099_turn_that_stalls_ends_with_an_error_and_is_a_failed_one(make_lab: MakeLab) -> None:
    lab = make_lab(program=HASTY)
    lab.fault("small", starts=[{"stall_after_tokens": 2}, {}])
    asked = {"messages": HELLO, "stream": True, "session_id": "s"}
    with lab.serve() as service:
        with service.http.stream("POST", "/chat", json=asked) as answer:
            *_, (name, error) = turn_events(answer)
        assert (name, error["error"]["code"]) == ("error", "upstream_stalled")
        turn = last_turn(service, "s")
        assert turn["status"] == "failed"
        assert service.http.post("/chat", json={**asked, "stream": False}).status_code == 200


def test_fault_099_client_that_gives_up_early_each_time_has_a_fresh_engine_in_the_end(
    make_lab: MakeLab, background: ThreadPoolExecutor
) -> None:
    lab = make_lab(program=HASTY)
    lab.fault("small", starts=[HUNG, {}])

    def asked_anew(service: Service) -> int:
        while True:
            try:
                return httpx.post(
                    f"{service.url}{CHAT}", json={"messages": HELLO, "max_tokens": 4}, timeout=0.5
                ).status_code
            except httpx.TimeoutException:
                continue

    with lab.serve() as service:
        assert background.submit(asked_anew, service).result(BOUND_S) == 200


def test_fault_100_turn_whose_engine_dies_is_a_failed_one_and_the_conversation_goes_on(make_lab: MakeLab) -> None:
    """AirLab lives and closes the turn, so it is failed; interrupted is one that nobody could close."""
    lab = make_lab()
    lab.fault("small", starts=[{"die_after_tokens": 3}, {}])
    asked = {"messages": HELLO, "stream": True, "session_id": "s"}
    with lab.serve() as service:
        with service.http.stream("POST", "/chat", json=asked) as answer:
            events = turn_events(answer)
        assert (events[-1][0], events[-1][1]["error"]["code"]) == ("error", "upstream_error")
        assert "killed by signal 9" in events[-1][1]["error"]["message"]
        assert "done" not in [name for name, _ in events]
        assert last_turn(service, "s")["status"] == "failed"
        assert service.http.post("/chat", json={**asked, "stream": False}).status_code == 200
        assert last_turn(service, "s")["status"] == "done"


def test_fault_113_streams_that_do_not_end_are_ended_in_time_each_with_an_error(
    make_lab: MakeLab, background: ThreadPoolExecutor
) -> None:
    """One signal is enough, whatever still streams."""
    lab = make_lab(program=HASTY, profile={"parallel": 3})
    lab.fault("small", **ENDLESS)
    with lab.serve() as service, ExitStack() as stack:
        streams = [iter(stack.enter_context(service.stream(max_tokens=900)).iter_lines()) for _ in range(2)]
        asked = {"messages": HELLO, "stream": True, "session_id": "s", "max_tokens": 900}
        chat = iter(stack.enter_context(service.http.stream("POST", "/chat", json=asked)).iter_lines())
        for lines in (*streams, chat):
            next(line for line in lines if "word" in line)
        rests = [background.submit(list, lines) for lines in (*streams, chat)]
        service.signal(signal.SIGTERM)

        assert service.wait() == 0
        *ends, turn = [[line for line in rest.result(BOUND_S) if line] for rest in rests]
        for end in ends:
            assert "shutting down" in json.loads(end[-1].removeprefix("data: "))["error"]["message"]
            assert "data: [DONE]" not in end
        assert turn[-2] == "event: error"
        assert "shutting down" in turn[-1]
        assert lab.engine_processes() == []
    with lab.serve() as service:
        assert last_turn(service, "s")["status"] in {"failed", "interrupted"}


def replaced(lab: Lab, data: bytes) -> None:
    draft = lab.weights("small").with_suffix(".draft")
    draft.write_bytes(data)
    draft.replace(lab.weights("small"))


def test_fault_114_file_that_is_replaced_while_it_loads_is_loaded_anew_for_those_who_wait(
    make_lab: MakeLab, background: ThreadPoolExecutor
) -> None:
    lab = make_lab()
    lab.fault("small", starts=[{"load_forever": True}, {}])
    with lab.serve() as service:
        asked = background.submit(service.chat)
        old = service.engine()
        replaced(lab, minimal_gguf(general__name="another"))

        assert asked.result(BOUND_S).status_code == 200
        assert service.engine().pid != old.pid
        wait_until(lambda: not old.alive, "the engine of the old file is gone")


def test_fault_114_file_that_is_replaced_by_a_broken_one_while_it_loads_starts_no_engine(
    make_lab: MakeLab, background: ThreadPoolExecutor
) -> None:
    lab = make_lab()
    lab.fault("small", load_forever=True)
    with lab.serve() as service:
        asked = background.submit(service.chat)
        old = service.engine()
        replaced(lab, b"GGUF but no more")

        answer = asked.result(BOUND_S)
        assert answer.status_code == 503
        assert "small.gguf" in answer.json()["error"]["message"]
        wait_until(lambda: service.model()["pid"] is None, "no engine is left")
        assert not old.alive
        assert service.http.get("/health").status_code == 200
