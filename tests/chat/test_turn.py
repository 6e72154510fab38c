"""A turn in memory: what only a model that thinks aloud, breaks off or never listens shows."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.chat import chat
from app.chat.events import Reasoning, Token, ToolEnded, TurnDone, TurnEvent
from app.chat.turn import Turn
from app.errors import UpstreamError
from app.messages import Message
from app.store.db import Database
from app.store.records import Once
from tests.chat.house import BREAK, KEY, House

BOUND_S = 20
HI = Message("user", "hi")
Build = Callable[..., House]


def call(name: str = "get_current_time", arguments: str = "{}") -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "id": "c", "function": {"name": name, "arguments": arguments}}]}


def words(text: str) -> dict[str, str]:
    return {"content": text}


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Builds a house; none of its leases is held and none of its turns is open when the test ends."""
    database = await Database.open(tmp_path / "airlab.db")
    houses: list[House] = []

    def make(*replies: list[Any]) -> House:
        houses.append(House(tmp_path, database, *replies))
        return houses[-1]

    yield make
    assert [house.fleet.held for house in houses] == [0] * len(houses)
    assert "open" not in {turn.status for turn in (await houses[-1].view()).turns}
    await database.close()


async def all_of(house: House, *said: Message, tools: bool = False) -> list[TurnEvent]:
    async with asyncio.timeout(BOUND_S):
        return [event async for event in house.turn(*said, tools=tools)]


def text_of(events: list[TurnEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


async def test_thoughts_are_shown_and_stored_and_never_sent_back(build: Build) -> None:
    """Sent back they would fill the context, and templates that drop them would break the prefix cache."""
    house = build(
        [{"reasoning_content": "I wonder."}, call()],
        [{"reasoning_content": "Aha!"}, words("noon")],
        [words("still noon")],
    )
    events = await all_of(house, HI, tools=True)
    await all_of(house, HI, Message("assistant", "noon"), Message("user", "and now?"), tools=True)

    assert [event.text for event in events if isinstance(event, Reasoning)] == ["I wonder.", "Aha!"]
    assert text_of(events) == "noon"
    stored = [item.message.reasoning for item in (await house.view()).branch]
    assert stored[:4] == [None, "I wonder.", None, "Aha!"]
    assert "wonder" not in str(house.model.asked)
    assert "Aha" not in str(house.model.asked)
    assert [message["role"] for message in house.model.asked[-1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]


async def test_engine_that_dies_before_a_rounds_first_word_is_asked_once_more(build: Build) -> None:
    """Also in a later round: what was shown before it is not said twice."""
    house = build([words("Let me see."), call()], [BREAK], [words("noon")])
    events = await all_of(house, HI, tools=True)

    assert text_of(events) == "Let me see.\n\nnoon"
    assert isinstance(events[-1], TurnDone)


@pytest.mark.parametrize("begun", [words("half an"), {"reasoning_content": "Hm"}], ids=["words", "thoughts"])
async def test_engine_that_dies_after_its_first_word_fails_the_turn(build: Build, begun: dict[str, str]) -> None:
    """Begun again, the client would see the beginning twice."""
    house = build([begun, BREAK], [words("whole")])
    with pytest.raises(UpstreamError):
        await all_of(house, HI)

    view = await house.view()
    assert [turn.status for turn in view.turns] == ["failed"]
    assert view.branch == ()
    assert "before this one was failed" in str(await all_of(house, HI))
    assert [item.message.content for item in (await house.view()).branch] == ["hi", "whole"]


@pytest.mark.parametrize("tools", [True, False])
async def test_call_that_nobody_offered_is_not_run_and_no_fault(build: Build, tools: bool) -> None:
    house = build([words("Wait."), call()], [words("Hm."), call()], [words("Well."), call()])
    events = await all_of(house, HI, tools=tools)

    assert isinstance(events[-1], TurnDone)
    assert len(house.gate.calls) == tools
    assert (await house.view()).branch[-1].message.content == text_of(events)


async def test_no_model_is_held_while_a_tool_runs(build: Build) -> None:
    house = build([call()], [words("noon")])
    held: list[int] = []

    async def look(_: object) -> None:
        await asyncio.sleep(0)
        held.append(house.fleet.held)

    house.gate.before = look
    await all_of(house, HI, tools=True)

    assert held == [0]


async def test_calls_of_one_round_run_side_by_side_and_are_told_as_they_end(build: Build) -> None:
    both = [{**call("a")["tool_calls"][0], "index": n, "id": f"c{n}"} for n in range(2)]
    house = build([{"tool_calls": both}], [words("done")])
    second_ended = asyncio.Event()

    async def first_waits_for_second(asked: Any) -> None:
        if asked.id == "c0":
            await second_ended.wait()
        else:
            second_ended.set()

    house.gate.before = first_waits_for_second
    events = await all_of(house, HI, tools=True)

    assert [event.id for event in events if isinstance(event, ToolEnded)] == ["c1", "c0"]
    told = [item.message.tool_call_id for item in (await house.view()).branch if item.message.role == "tool"]
    assert told == ["c0", "c1"]


async def test_switch_that_goes_off_in_a_turn_stops_its_next_call(build: Build) -> None:
    """Whoever switches tools off because of what they see happening means this turn, too."""
    house = build([call()], [call("list_contents")], [words("so be it")])

    async def switch_off(_: object) -> None:
        await asyncio.sleep(0)
        house.live.current = replace(house.live.current, tools_on=False)

    house.gate.before = switch_off
    events = await all_of(house, HI, tools=True)

    assert [(event.name, event.status, event.ran) for event in events if isinstance(event, ToolEnded)] == [
        ("get_current_time", "ok", True),
        ("list_contents", "denied", False),
    ]
    assert [made.name for made in house.gate.calls] == ["get_current_time"]
    assert text_of(events) == "so be it"


async def test_calls_beyond_sixteen_in_one_round_are_answered_and_can_be_made_again(build: Build) -> None:
    """A model that writes hundreds of calls must not fill the machine with processes."""
    many = [{**call(f"tool_{n}")["tool_calls"][0], "index": n, "id": f"c{n}"} for n in range(40)]
    house = build([{"tool_calls": many}], [call("tool_39")], [words("done")])
    events = await all_of(house, HI, tools=True)

    assert [made.name for made in house.gate.calls] == [f"tool_{n}" for n in (*range(16), 39)]
    refused = [event for event in events if isinstance(event, ToolEnded) and not event.ran]
    assert {event.status for event in refused} == {"error"}
    assert len(refused) == 24
    assert isinstance(events[-1], TurnDone)


async def test_leaving_while_a_tool_runs_cancels_it_and_the_turn(build: Build) -> None:
    house = build([call()], [words("unheard")], [words("heard")])
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_: object) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    house.gate.before = hang
    turn = house.turn(HI, tools=True)
    async with asyncio.timeout(BOUND_S):
        waiting = asyncio.create_task(_drain(turn))
        await began.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
        await turn.aclose()

    assert cancelled.is_set()
    assert [entry.status for entry in (await house.view()).turns] == ["cancelled"]
    house.model.replies.pop(0)
    assert text_of(await all_of(house, HI)) == "heard"


async def test_leaving_at_any_moment_leaves_a_turn_that_is_whole_or_marked(build: Build) -> None:
    """The client leaves a little later each time, until a turn has ended by itself."""
    for moment in range(400):
        house = build([words("a"), call()], [words("b")])
        before = len(await house.sessions.branch(KEY))
        task = asyncio.create_task(_drain(house.turn(Message("user", f"turn {moment}"), tools=True)))
        stored, steps = divmod(moment, 4)
        for _ in range(stored):
            await house.sessions.branch(KEY)  # as long as the store takes for what it was asked before
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await asyncio.wait({task})

        grown = len(await house.sessions.branch(KEY)) - before
        statuses = [turn.status for turn in (await house.view()).turns] if moment > 4 else []
        assert grown == (4 if statuses[-1:] == ["done"] else 0)
        assert house.fleet.held == 0
        if finished:
            assert set(statuses) == {"cancelled", "done"}
            return
    raise AssertionError("the turn never ended")


async def test_leaving_is_marked_however_often_the_turn_is_cancelled(build: Build) -> None:
    """Web servers cancel a request more than once, also while its turn is still being opened."""
    for steps in range(30):
        house = build([words("a")])
        task = asyncio.create_task(_drain(house.turn(HI)))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = task.done()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        await house.chat.drained(within_s=BOUND_S, hurried=asyncio.Event())

        view = await house.sessions.view(KEY)
        assert "open" not in [turn.status for turn in (view.turns if view else ())], steps
        if finished:
            return


async def test_client_that_leaves_and_asks_again_at_once_gets_its_answer_and_one_turn(build: Build) -> None:
    """At whatever moment: what it left is still being ended then, or its answer is being stored."""
    for moment in range(200):
        house = build([words("a"), words("b")], [words("a"), words("b")])
        once = Once(KEY.owner, f"key {moment}", b"the same")
        before = len(await house.sessions.branch(KEY))
        said = Message("user", f"turn {moment}")
        left = asyncio.create_task(_drain(house.turn(said, once=once)))
        stored, steps = divmod(moment, 4)
        for _ in range(stored):
            await house.sessions.branch(KEY)
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = left.done()
        left.cancel()
        await asyncio.sleep(0)
        async with asyncio.timeout(BOUND_S):
            answered = [event async for event in house.turn(said, once=once)]
        await asyncio.wait({left})

        assert isinstance(answered[-1], TurnDone)
        assert text_of(answered) == "ab"
        assert len(await house.sessions.branch(KEY)) - before == 2
        assert house.fleet.held == 0
        if finished:
            return
    raise AssertionError("the turn never ended")


@pytest.mark.parametrize("ends", ["left", "broken off"])
async def test_turn_that_did_not_reach_its_end_leaves_nothing_in_memory(
    build: Build, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """All that was generated lay in a ring of a task, its error and their frames, until garbage was looked for."""
    turns: list[weakref.ref[Turn]] = []

    class Watched(Turn):
        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            turns.append(weakref.ref(self))

    monkeypatch.setattr(chat, "Turn", Watched)
    house = build([words("a"), *([words("b")] * 50 if ends == "left" else [BREAK])])
    gc.disable()
    try:
        events = house.turn(HI)
        with suppress(UpstreamError):
            async for event in events:
                if ends == "left" and isinstance(event, Token):
                    break
        await events.aclose()
        del events
        await house.chat.drained(within_s=BOUND_S, hurried=asyncio.Event())
        assert [turn() for turn in turns] == [None]
    finally:
        gc.enable()


async def _drain(turn: Any) -> None:
    try:
        async for _ in turn:
            pass
    finally:
        await turn.aclose()
