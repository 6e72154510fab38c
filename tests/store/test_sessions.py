"""Turns and what is left of them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.errors import StorageError
from app.messages import Message, ToolCall
from app.store.db import Database
from app.store.records import SessionKey, TokenCount
from app.store.sessions import Sessions
from tests.store.talk import KEY, Talk, answer, messages, tool_round, user


async def test_unknown_session_has_no_view_and_an_empty_branch(sessions: Sessions) -> None:
    assert await sessions.view(SessionKey("use", "nobody")) is None
    assert await sessions.branch(SessionKey("use", "nobody")) == ()


async def test_message_comes_back_as_it_went_in(talk: Talk) -> None:
    call = Message("assistant", "let me see", tool_calls=(ToolCall("a", "read_file", "{not json"),), reasoning="hm")
    result = Message("tool", '{"status": "error"}', tool_call_id="a")
    spoken = Message("assistant", "no such file", reasoning="so be it")
    turn = await talk.open(user("read it"))
    await talk.sessions.append(turn.id, [call, result])
    await talk.sessions.close_turn(turn.id, spoken)

    assert messages(await talk.sessions.branch(KEY)) == [user("read it"), call, result, spoken]


async def test_counts_are_kept_and_replaced(talk: Talk) -> None:
    turn = await talk.open(user("one"))
    (asked,) = turn.path
    assert asked.count is None
    counts = {asked.id: TokenCount(3, "smol")}
    await talk.sessions.close_turn(turn.id, answer("first"), counts=counts)
    turn = await talk.open(user("two"))
    assert [stored.count for stored in turn.path] == [(3, "smol"), None, None]

    await talk.sessions.close_turn(turn.id, answer("second"), counts={asked.id: TokenCount(4, "qwen")})

    assert (await talk.sessions.branch(KEY))[0].count == TokenCount(4, "qwen")


async def test_counts_do_not_reach_into_another_session(database: Database) -> None:
    mine, theirs = Talk(database), Talk(database, SessionKey("other", "default"))
    (asked,) = (await mine.open(user("one"))).path
    turn = await theirs.open(user("two"))
    await theirs.sessions.close_turn(turn.id, answer("no"), counts={asked.id: TokenCount(9, "smol")})

    assert (await mine.open(user("one"))).path[0].count is None


async def test_view_shows_every_turn_and_the_active_branch(talk: Talk) -> None:
    await talk.say("one", "first")
    failed = await talk.open(user("two"))
    await talk.sessions.end_turn(failed.id, "failed", "engine died")
    turn = await talk.open(user("three"))
    await talk.sessions.close_turn(turn.id, answer("third"), detail={"rounds": 0})

    view = await talk.sessions.view(KEY)

    assert view is not None
    assert [(t.status, t.error, dict(t.detail)) for t in view.turns] == [
        ("done", None, {}),
        ("failed", "engine died", {}),
        ("done", None, {"rounds": 0}),
    ]
    assert {t.model for t in view.turns} == {"smol"}
    assert [m.content for m in messages(view.branch)] == ["one", "first", "three", "third"]
    assert view.info.created_ms <= view.turns[0].started_ms <= view.info.updated_ms


async def test_next_turn_is_told_of_the_unfinished_one_until_one_is_done(talk: Talk) -> None:
    assert (await talk.open(user("one"))).previous_unfinished is None
    await talk.sessions.interrupt_open_turns()
    lost = await talk.open(user("one"))
    assert lost.previous_unfinished is not None
    assert lost.previous_unfinished.status == "interrupted"

    await talk.sessions.end_turn(lost.id, "failed", "engine died")
    turn = await talk.open(user("one"))
    assert turn.previous_unfinished is not None
    assert (turn.previous_unfinished.id, turn.previous_unfinished.error) == (lost.id, "engine died")

    await talk.sessions.close_turn(turn.id, answer("first"))
    assert (await talk.open(user("two"))).previous_unfinished is None


async def test_boot_marks_what_the_last_run_left_open(database: Database) -> None:
    first, second = Talk(database), Talk(database, SessionKey("use", "other"))
    await first.say("one", "first")
    await first.open(user("two"))
    await second.open(user("hello"))

    assert await first.sessions.interrupt_open_turns() == 2
    assert await first.sessions.interrupt_open_turns() == 0
    view = await first.sessions.view(first.key)
    assert view is not None
    assert [turn.status for turn in view.turns] == ["done", "interrupted"]
    assert await first.branch() == ["one", "first"]


async def test_turn_left_open_is_interrupted_by_the_next_one_of_its_session(talk: Talk) -> None:
    """Its caller was cancelled while it began, or its end could not be written; it must not block the session."""
    left = await talk.open(user("one"))
    turn = await talk.open(user("one"))

    assert turn.previous_unfinished is not None
    assert (turn.previous_unfinished.id, turn.previous_unfinished.status) == (left.id, "interrupted")
    with pytest.raises(StorageError, match="not open"):
        await talk.sessions.append(left.id, tool_round("a"))


async def test_ending_a_turn_that_is_done_changes_nothing(talk: Talk) -> None:
    """A client that leaves while the answer is being stored has its turn either wholly or not at all."""
    turn = await talk.open(user("one"))
    await talk.sessions.close_turn(turn.id, answer("first"))

    assert await talk.sessions.end_turn(turn.id, "cancelled") is False
    view = await talk.sessions.view(KEY)
    assert view is not None
    assert view.turns[0].status == "done"


async def test_turn_is_closed_once(talk: Talk) -> None:
    turn = await talk.open(user("one"))
    await talk.sessions.close_turn(turn.id, answer("first"))

    with pytest.raises(StorageError, match="not open"):
        await talk.sessions.close_turn(turn.id, answer("again"))
    assert await talk.branch() == ["one", "first"]


@pytest.mark.parametrize("wrong", [user("me"), tool_round("a")[0], tool_round("a")[1]])
async def test_only_an_answer_closes_a_turn(talk: Talk, wrong: Message) -> None:
    turn = await talk.open(user("one"))

    with pytest.raises(ValueError, match="closed by"):
        await talk.sessions.close_turn(turn.id, wrong)


@pytest.mark.parametrize(
    "half",
    [
        tool_round("a", "b")[:2],
        tool_round("a")[1:],
        [*tool_round("a"), tool_round("a")[1]],
        [*tool_round("a", "b")[:2], *tool_round("c")],
        [answer("done")],
        [user("hello")],
    ],
    ids=["a result is missing", "no call", "a result too many", "next round too early", "an answer", "a user"],
)
async def test_half_a_round_is_refused_whole(talk: Talk, half: list[Message]) -> None:
    """No chat template renders a call without its result: such a conversation would be dead for ever."""
    turn = await talk.open(user("one"))

    with pytest.raises(ValueError, match=r"belong|no result"):
        await talk.sessions.append(turn.id, half)
    assert await talk.stored() == 1


async def test_calls_that_share_an_id_need_a_result_each(talk: Talk) -> None:
    """Some models number every call alike."""
    turn = await talk.open(user("one"))

    assert len(await talk.sessions.append(turn.id, tool_round("0", "0"))) == 3


async def test_turn_whose_opening_was_cancelled_too_late_is_told_of_next_time(talk: Talk) -> None:
    """The caller never learns the turn's id then, so nobody could end it."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(str):
        __slots__ = ()

        def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
            begun.set()
            go_on.wait(20)
            return super().encode(encoding, errors)

    opening = asyncio.create_task(talk.open(Message("user", Slow("one"))))
    await asyncio.to_thread(begun.wait, 20)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    go_on.set()

    turn = await talk.open(user("one"))
    assert turn.previous_unfinished is not None
    assert turn.previous_unfinished.status == "interrupted"
    assert await talk.stored() == 1
