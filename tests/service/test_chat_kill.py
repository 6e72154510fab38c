"""AirLab killed without a warning in the middle of turns: what was acknowledged stays, half is never whole."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import pytest

from tests.chat.talk import Event, calls, configure, require_sound_store, said, session, streaming, visible
from tests.conftest import MakeLab
from tests.service.kills import kill
from tests.support.service import BOUND_S, Lab, Service, wait_until

MOMENTS = (*range(19), 1000)
"""After how many events of a turn it is killed; no turn has so many as the last, which is killed after its end."""
MANY_TOKENS = 4000
WITH_TOOLS = {"enable_tools": True, "max_tokens": MANY_TOKENS}
LIST = "list_contents"
ANSWER = " ".join(f"word{number}" for number in range(12))
ENDLESS = " ".join(f"word{number}" for number in range(MANY_TOKENS))
"""An answer that goes on however slow the test is."""
ENDLESS_AT = {9, 11, 13}


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """A model whose context has room for a long answer, and a tool."""
    lab = make_lab("fake", models={"small": {"context_length": 16384}})
    configure(lab, tools={"builtin": [LIST]})
    (lab.folder / "workspace").mkdir()
    return lab


def let_answer(lab: Lab, answer: str) -> None:
    """From its next start on the model calls a tool and then speaks for a while."""
    lab.fault("small", supports_tools=True, token_s=0.01, replies=[calls((LIST, path(lab))), answer])


def path(lab: Lab) -> dict[str, str]:
    return {"path": str(lab.folder / "workspace")}


def gather(service: Service, text: str, into: list[Event]) -> None:
    """Say something with tools; the events as far as they come."""
    # It is killed meanwhile. One by one: another thread counts them.
    with suppress(httpx.HTTPError), streaming(service, text, **WITH_TOOLS) as events:
        for event in events:
            into.append(event)  # noqa: PERF402


def reached(moment: int, events: list[Event], gathering: Future[None]) -> bool:
    """Whether so many events came, or all there are."""
    return len(events) >= moment or gathering.done()


def require_whole_turns(service: Service, acknowledged: dict[str, str]) -> list[dict[str, Any]]:
    """What was acknowledged is there, every answer is whole, and every turn has a mark that fits; the turns."""
    branch, turns = visible(service), session(service)["turns"]
    pairs = [(user["content"], answer["content"]) for user, answer in zip(branch[::2], branch[1::2], strict=True)]
    assert {answer for _, answer in pairs} <= {ANSWER}
    assert acknowledged.items() <= dict(pairs).items()
    statuses = [turn["status"] for turn in turns]
    assert set(statuses) <= {"done", "interrupted"}
    assert statuses.count("done") == len(pairs)
    return list(turns)


def test_twenty_kills_after_each_event_of_a_turn_lose_nothing_that_was_acknowledged(lab: Lab) -> None:
    acknowledged: dict[str, str] = {}
    let_answer(lab, ANSWER)
    with lab.serve() as service:
        acknowledged["first"] = said(service, "first", enable_tools=True)["response"]
        kill(service)

    interrupted = 0
    for moment in MOMENTS:
        text, events = f"turn {moment}", list[Event]()
        let_answer(lab, ENDLESS if moment in ENDLESS_AT else ANSWER)
        with lab.serve() as service, ThreadPoolExecutor(1) as pool:
            known = require_whole_turns(service, acknowledged)
            gathering = pool.submit(gather, service, text, events)
            wait_until(partial(reached, moment, events, gathering), f"{moment} events of the turn, or its end")
            kill(service)
            gathering.result(BOUND_S)
        names = [name for name, _ in events]
        if "done" in names:
            acknowledged[text] = "".join(data["text"] for name, data in events if name == "token")
            assert (known[-1]["status"] == "interrupted") == ("notice" in names)
        interrupted += known[-1]["status"] == "interrupted"
        require_sound_store(lab)

    assert interrupted > 2
    assert len(acknowledged) > 1
    with lab.serve() as service:
        require_whole_turns(service, acknowledged)


@pytest.mark.parametrize("after", ["turn", "tool_start", "tool_result", "token"])
def test_interrupted_turn_is_marked_and_the_next_answer_says_so(lab: Lab, after: str) -> None:
    """It is never taken up again by itself: a tool might run twice."""
    let_answer(lab, ENDLESS)
    with lab.serve() as service, streaming(service, "lost", **WITH_TOOLS) as events:
        next(data for name, data in events if name == after)
        kill(service)

    let_answer(lab, ANSWER)
    with lab.serve() as service:
        view = session(service)
        answer = said(service, "after", enable_tools=True)

        assert [turn["status"] for turn in view["turns"]] == ["interrupted"]
        assert "before the answer was complete" in view["turns"][0]["error"]
        assert view["messages"] == []
        assert answer["notices"] == ["the turn before this one was interrupted"]
        assert answer["response"] == ANSWER
        assert [message["content"] for message in visible(service)] == ["after", ANSWER]

    require_sound_store(lab)


def test_lost_message_sent_again_is_not_stored_twice(lab: Lab) -> None:
    let_answer(lab, ENDLESS)
    with lab.serve() as service, streaming(service, "lost", **WITH_TOOLS) as events:
        next(data for name, data in events if name == "tool_result")
        kill(service)

    let_answer(lab, ANSWER)
    with lab.serve() as service:
        assert said(service, "lost", enable_tools=True)["response"] == ANSWER
        assert [message["role"] for message in session(service)["messages"]] == [
            "user",
            "assistant",
            "tool",
            "assistant",
        ]

    require_sound_store(lab)
