"""Idempotency-Key and resume over real HTTP: a retry is never a second turn, and what was cut is gone on with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.chat.talk import (
    calls,
    configure,
    events_of,
    prompts,
    require_sound_store,
    said,
    session,
    streaming,
    user,
    visible,
)
from tests.conftest import MakeLab
from tests.service.kills import kill
from tests.support.service import BOUND_S, Lab, Service, wait_until

TIME = "get_current_time"


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("fake", profile={"parallel": 2})


def ask(service: Service, key: str, text: str = "hi", route: str = "/chat", **more: Any) -> httpx.Response:
    body = {"messages": [user(text)], "session_id": "s", "max_tokens": 32, **more} if route == "/chat" else more
    return service.http.post(route, json=body, headers={"idempotency-key": key})


def test_a_retry_gets_the_same_answer_and_no_second_turn(lab: Lab) -> None:
    with lab.serve() as service:
        first = ask(service, "k").json()
        again = ask(service, "k").json()
        streamed = list(events_of(ask(service, "k", stream=True)))
        turns, asked = session(service)["turns"], len(prompts(service))

    assert first["replayed"] is False
    assert again == {**first, "replayed": True}
    assert len(turns) == asked == 1
    assert [name for name, _ in streamed] == ["turn", "token", "done"]
    assert streamed[1][1]["text"] == first["response"]
    assert streamed[2][1]["message_id"] == first["message_id"]


def test_a_retry_after_kill_9_gets_what_was_acknowledged(lab: Lab) -> None:
    with lab.serve() as service:
        first = ask(service, "k").json()
        kill(service)
    with lab.serve() as service:
        assert ask(service, "k").json() == {**first, "replayed": True}
        assert len(session(service)["turns"]) == 1


def test_a_retry_joins_the_turn_that_runs(lab: Lab) -> None:
    """A client that gave up waiting, behind a proxy that did not: its retry must not run the tools twice."""
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    with lab.serve() as service, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, service, "k")
        wait_until(lambda: service.model()["busy"], "the first turn generates")
        second = pool.submit(ask, service, "k")
        other = ask(service, "k", "something else")
        gate.touch()
        answers = [future.result(BOUND_S).json() for future in (first, second)]
        turns = session(service)["turns"]

    assert {name: value for name, value in answers[0].items() if name != "replayed"} == {
        name: value for name, value in answers[1].items() if name != "replayed"
    }
    assert len(turns) == 1
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_a_turn_goes_on_for_the_retry_when_the_first_client_leaves(lab: Lab) -> None:
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    body = {"messages": [user("hi")], "session_id": "s", "max_tokens": 32, "stream": True}
    key = {"idempotency-key": "k"}
    with lab.serve() as service:
        with service.http.stream("POST", "/chat", json=body, headers=key) as second:
            with service.http.stream("POST", "/chat", json=body, headers=key) as first:
                for events in (events_of(first), heard := events_of(second)):
                    assert next(data["turn"] for name, data in events if name == "turn") == 1
            gate.touch()
            assert [name for name, _ in heard][-1] == "done"
        turns = session(service)["turns"]

    assert [turn["status"] for turn in turns] == ["done"]
    require_sound_store(lab)


def test_a_turn_ends_when_nobody_listens_any_more(lab: Lab) -> None:
    lab.fault("small", token_gate_file=str(lab.folder / "never"))
    body = {"messages": [user("hi")], "session_id": "s", "max_tokens": 32, "stream": True}
    ended: list[str] = []
    with lab.serve() as service:
        for _ in range(2):
            with service.http.stream("POST", "/chat", json=body, headers={"idempotency-key": "k"}) as answer:
                next(data for name, data in events_of(answer) if name == "token")
            # Asked again before the service knows that it was left, the same turn would be joined.
            ended.append("cancelled")
            wait_until(lambda: [turn["status"] for turn in session(service)["turns"]] == ended, "it is cancelled")
        wait_until(lambda: not service.model()["busy"], "the engine is free")
        assert [turn["status"] for turn in session(service)["turns"]] == ["cancelled", "cancelled"]


def test_a_key_stands_for_one_request(lab: Lab) -> None:
    with lab.serve() as service:
        answer = ask(service, "k").json()
        for reused in (
            ask(service, "k", "something else"),
            ask(service, "k", temperature=1),
            ask(service, "k", session_id="other"),
            ask(service, "k", route="/sessions/s/regenerate"),
        ):
            assert (reused.status_code, reused.json()["error"]["code"]) == (422, "idempotency_key_reused")
        for wrong in ("", "a b", "x" * 256):
            assert ask(service, wrong).status_code == 400
        once = ask(service, "r", route="/sessions/s/regenerate").json()
        assert ask(service, "r", route="/sessions/s/regenerate").json()["message_id"] == once["message_id"]
        assert once["message_id"] != answer["message_id"]
        assert len(session(service)["turns"]) == 2


def test_a_turn_that_failed_is_run_anew_under_its_key(lab: Lab) -> None:
    lab.fault("small", starts=[{"status": 500}, {}])
    with lab.serve() as service:
        failed = ask(service, "k")
        service.engine().kill()
        wait_until(lambda: service.model()["state"] != "ready", "its end is seen")
        answer = ask(service, "k")
        turns = session(service)["turns"]

    assert failed.status_code == 502
    assert answer.json()["replayed"] is False
    assert [turn["status"] for turn in turns] == ["failed", "done"]
    require_sound_store(lab)


def test_a_removed_session_takes_its_kept_answers_along(lab: Lab) -> None:
    with lab.serve() as service:
        ask(service, "k")
        service.http.delete("/sessions/s").raise_for_status()
        assert ask(service, "k").json()["replayed"] is False


def test_an_interrupted_turn_is_resumed_after_its_whole_rounds(make_lab: MakeLab) -> None:
    """What a tool did is done: going on must not do it twice."""
    lab = make_lab("fake", models={"small": {"context_length": 16384}})
    configure(lab, tools={"builtin": [TIME]})
    # The call is one token long and passes the gate; the answer waits in front of it to be interrupted.
    held = {"replies": [calls((TIME, {})), "a b c"], "token_gate_file": str(lab.folder / "never")}
    lab.fault("small", supports_tools=True, starts=[held, {"replies": ["done"]}])
    with lab.serve() as service, streaming(service, "look", enable_tools=True, system_prompt="Look well.") as events:
        next(data for name, data in events if name == "token")
        kill(service)

    with lab.serve() as service:
        assert session(service)["last_turn"]["status"] == "interrupted"
        assert session(service)["messages"] == []
        answer = service.http.post("/sessions/s/resume", json={}).raise_for_status().json()
        sent = prompts(service)[-1]
        view = session(service)
        assert service.http.post("/sessions/s/resume", json={}).status_code == 400

    assert answer["response"] == "done"
    assert answer["notices"] == []
    assert answer["tool_calls"] == []
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "tool"]
    assert sent["messages"][0]["content"] == "Look well."
    assert sent["tools"]
    assert [message["role"] for message in view["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert [turn["status"] for turn in view["turns"]] == ["interrupted", "done"]
    require_sound_store(lab)


def test_a_cancelled_turn_is_resumed_or_left_for_good(lab: Lab) -> None:
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    with lab.serve() as service:
        with streaming(service, "one") as events:
            next(data for name, data in events if name == "token")
        wait_until(lambda: session(service)["last_turn"]["status"] == "cancelled", "it is cancelled")
        gate.touch()
        resumed = service.http.post("/sessions/s/resume", json={}).raise_for_status().json()
        assert visible(service) == [user("one"), {"role": "assistant", "content": resumed["response"]}]
        assert said(service, "two")["notices"] == []
    require_sound_store(lab)
