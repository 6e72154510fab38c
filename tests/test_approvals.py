"""Calls that wait for a person: one answer each, by whoever may give it, and a no when nobody does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.approvals import Answer, Approval, ApprovalEnded, Approvals, in_words
from app.errors import ApprovalNotFoundError
from app.journal import Fact, Journal
from app.messages import ToolCall

BOUND_S = 20
CALL = ToolCall("call_1", "delete_file", '{"path": "/ws/a"}')
ARGUMENTS = {"path": "/ws/a"}


class Door:
    """Approvals, and the questions that they show."""

    def __init__(self, *, limit_s: float = 60.0) -> None:
        self.facts: list[Fact] = []
        journal = Journal()
        journal.subscribe(self.facts.append)
        self.approvals = Approvals(journal, limit_s=limit_s)
        self.asked: asyncio.Queue[Approval] = asyncio.Queue()

    def ask(self, *, actor: str = "key", rest_s: float = 100.0) -> asyncio.Task[Answer]:
        asking = self.approvals.ask(
            CALL, ARGUMENTS, why="for good", actor=actor, session="s", rest_s=rest_s, tell=self.asked.put_nowait
        )
        return asyncio.create_task(asking)

    async def question(self) -> Approval:
        async with asyncio.timeout(BOUND_S):
            return await self.asked.get()

    async def end(self, task: asyncio.Task[Answer]) -> Answer:
        async with asyncio.timeout(BOUND_S):
            answer = await task
        assert self.approvals.pending() == ()
        assert self.facts[-1] == ApprovalEnded("delete_file", answer.outcome, answer.by)
        return answer


@pytest.mark.parametrize(("grant", "outcome"), [(True, "granted"), (False, "refused")])
async def test_answer_reaches_the_call_with_who_gave_it(grant: bool, outcome: Any) -> None:  # a parameter of pytest's
    door = Door()
    task = door.ask()
    question = await door.question()
    assert door.approvals.pending() == (question,)
    answered = door.approvals.answer(question.id, grant=grant, by="admin-key", actor=None)

    assert answered == question
    assert await door.end(task) == Answer(outcome, "admin-key")


async def test_question_says_what_would_be_done_and_until_when() -> None:
    door = Door(limit_s=30)
    task = door.ask()
    question = await door.question()

    assert question.words == 'delete_file(path="/ws/a"): for good'
    assert json.loads(question.arguments) == ARGUMENTS
    assert (question.tool, question.call_id, question.actor, question.session) == ("delete_file", "call_1", "key", "s")
    assert question.to_json()["expires_ms"] == question.asked_ms + 30_000
    assert len(question.id) >= 20
    door.approvals.close()
    await door.end(task)


@pytest.mark.parametrize(("limit_s", "rest_s"), [(0, 100), (60, 0)])
async def test_nobody_who_answers_in_time_means_no(limit_s: float, rest_s: float) -> None:
    """The time is the approvals' own, or what the turn has left."""
    door = Door(limit_s=limit_s)

    assert await door.end(door.ask(rest_s=rest_s)) == Answer("expired")
    with pytest.raises(ApprovalNotFoundError):
        door.approvals.answer((await door.question()).id, grant=True, by="key", actor=None)


async def test_answer_in_the_last_moment_counts_as_it_was_told() -> None:
    """Whoever was told that it is granted must not read later that it was not."""
    door = Door(limit_s=0)
    task = door.ask()
    question = await door.question()
    door.approvals.answer(question.id, grant=True, by="key", actor=None)

    assert (await door.end(task)).outcome == "granted"


async def test_second_answer_meets_nothing() -> None:
    door = Door()
    task = door.ask()
    question = await door.question()
    door.approvals.answer(question.id, grant=False, by="key", actor=None)

    with pytest.raises(ApprovalNotFoundError):
        door.approvals.answer(question.id, grant=True, by="key", actor=None)
    assert (await door.end(task)).outcome == "refused"


async def test_key_sees_and_answers_its_own_questions_only() -> None:
    door = Door()
    mine, other = door.ask(actor="a"), door.ask(actor="b")
    first, second = await door.question(), await door.question()

    assert door.approvals.pending("a") == (first,)
    assert door.approvals.pending() == (first, second)
    for id_ in (second.id, "guess", ""):
        with pytest.raises(ApprovalNotFoundError):
            door.approvals.answer(id_, grant=True, by="a", actor="a")
    door.approvals.answer(first.id, grant=True, by="a", actor="a")
    async with asyncio.timeout(BOUND_S):
        assert await mine == Answer("granted", "a")
    door.approvals.close()
    assert await door.end(other) == Answer("closed")


async def test_caller_who_leaves_takes_the_question_along() -> None:
    door = Door()
    task = door.ask()
    question = await door.question()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert door.approvals.pending() == ()
    with pytest.raises(ApprovalNotFoundError):
        door.approvals.answer(question.id, grant=True, by="key", actor=None)


async def test_question_that_could_not_be_shown_does_not_stay() -> None:
    door = Door()

    def fail(_: Approval) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await door.approvals.ask(CALL, {}, why="", actor="key", session=None, rest_s=9, tell=fail)
    assert door.approvals.pending() == ()


async def test_more_questions_than_anybody_could_answer_are_not_asked() -> None:
    door = Door()
    tasks = [door.ask() for _ in range(65)]
    for _ in range(64):
        await door.question()

    async with asyncio.timeout(BOUND_S):
        assert await tasks[-1] == Answer("closed")
        door.approvals.close()
        assert {answer.outcome for answer in await asyncio.gather(*tasks)} == {"closed"}
        assert await door.ask() == Answer("closed"), "what comes later is not asked either"


def test_words_cannot_steer_a_terminal_or_hide_what_they_name() -> None:
    words = in_words("delete_file", {"path": "/ws/\x1b[2J\u202egnp\u009b", "lines": ["x" * 1000]})

    assert words.isprintable()
    assert "\\u001b" in words
    assert "\\u202e" in words
    assert words.endswith("characters more])")
