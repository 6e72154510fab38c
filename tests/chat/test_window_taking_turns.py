"""Models, budgets and branches that take turns in one long conversation, held against reading all of it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from app.chat.history import KEPT_WHEN_FULL
from app.chat.window import Window
from app.errors import BadRequestError
from app.messages import Message
from app.store import tree
from app.store.db import Database
from app.store.records import Again, OpenTurn, SessionKey, StoredMessage
from app.store.sessions import Sessions
from tests.chat.test_window import FIELDS

KEY = SessionKey("me", "s")
MOST_TOKENS = 60
TOKENS_A_WORD = {"wordy": 1, "letters": 3}
"""Tokens of each model: the same text is three times as long for one as for the other."""


class Step(NamedTuple):
    """One turn."""

    model: str
    context_tokens: int
    asked: int
    """Words."""
    answered: int
    begins: str
    """Below the last answer, or where else."""
    place: float
    """Which of the places there are, from the first to the last."""


STEP = st.builds(
    Step,
    st.sampled_from(sorted(TOKENS_A_WORD)),
    st.sampled_from([30, 45, 1000]),
    st.sampled_from([1, 2, 3, 9]),
    st.sampled_from([1, 2, 5]),
    st.sampled_from(["head"] * 6 + ["edit", "regenerate", "account"]),
    st.floats(0, 1),
)


class Counts:
    """Stands in for Models."""

    async def count(self, upstream: object, counted_by: str, message: Message) -> int:
        return length(counted_by, message)


def length(model: str, message: Message) -> int:
    return TOKENS_A_WORD[model] * len(message.content.split())


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(STEP, min_size=3, max_size=8), repeated=st.integers(8, 30))
def test_each_model_and_budget_keeps_its_beginning_until_full_and_is_shown_no_less_than_there_is_room_for(
    steps: list[Step], repeated: int
) -> None:
    """However they take turns, and wherever in the tree; an engine's prefix cache lives of that beginning."""

    async def scene(folder: str) -> None:
        database = await Database.open(Path(folder) / "airlab.db")
        try:
            await Follow(database).all(steps * repeated)
        finally:
            await database.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scene(folder))


class Follow:
    """A conversation, and what its turns were shown."""

    def __init__(self, database: Database) -> None:
        self.database, self.sessions = database, Sessions(database)
        self.shown: dict[int, tuple[str, int, int]] = {}
        """Of each answer its model, the budget, and how many messages it was given without."""
        self.users: list[int] = []

    async def all(self, steps: Sequence[Step]) -> None:
        for number, step in enumerate(steps):
            turn = await self.open(step, f"{number} " + "u " * (step.asked - 1))
            path = await self.path(turn.path[-1].id)
            assert path[-len(turn.path) :] == turn.path, "the end of the conversation"
            window = Window(cast("Any", Counts()), lambda _: None, most_tokens=MOST_TOKENS)
            window.read(turn)
            budget_tokens = min(MOST_TOKENS, step.context_tokens)
            left_out = await self.look(turn, path, window, step.model, budget_tokens)
            if left_out is None:
                await self.sessions.end_turn(turn.id, "failed", "too long")
                continue
            detail = {} if window.cut is None else {"cut": {name: getattr(window.cut, name) for name in FIELDS}}
            answer = Message("assistant", f"{number} " + "a " * (step.answered - 1))
            answer_id = await self.sessions.close_turn(turn.id, answer, counts=window.counts, detail=detail)
            self.shown[answer_id] = (step.model, budget_tokens, left_out)
            assert turn.user_message_id is not None
            self.users.append(turn.user_message_id)

    async def open(self, step: Step, text: str) -> OpenTurn:
        said, again = [Message("user", text)], None
        if step.begins in {"edit", "regenerate"} and self.users:
            # Of an answer: the one to a user message, whichever was stored first.
            place = (self.users if step.begins == "edit" else sorted(self.shown))[
                round(step.place * (len(self.users) - 1))
            ]
            again = Again("edit" if step.begins == "edit" else "regenerate", place)
            said = said if step.begins == "edit" else []
        elif step.begins == "account" and self.shown:
            # The client has another account of an answer, as one that ran elsewhere: stored with this very turn.
            last = await self.path(max(self.shown))
            kept = [stored.message for stored in last[: round(step.place * len(last))]]
            kept = kept[: next((at + 1 for at in reversed(range(len(kept))) if kept[at].role == "user"), 0)]
            said = [*kept, Message("assistant", "of another server"), Message("user", text)]
        return await self.sessions.open_turn(
            KEY, said, from_root=len(said) > 1, model=step.model, again=again, most_tokens=MOST_TOKENS
        )

    async def look(
        self, turn: OpenTurn, path: Sequence[StoredMessage], window: Window, model: str, budget_tokens: int
    ) -> int | None:
        """How many messages are left out; None where the last turn alone is too long."""
        tokens = [length(model, stored.message) for stored in path]
        begins = [at for at, stored in enumerate(path) if stored.message.role == "user"]
        try:
            shown = await window.fitting(call(model, budget_tokens))
        except BadRequestError:
            assert sum(tokens[begins[-1] :]) > budget_tokens
            return None
        left_out = len(path) - len(shown)
        assert shown == [stored.message for stored in path[left_out:]]
        assert sum(tokens[left_out:]) <= budget_tokens
        if left_out == 0:
            return 0
        assert left_out in begins
        assert window.cut is not None
        assert (window.cut.messages, window.cut.first_kept) == (left_out, path[left_out].id)
        before = max((at for at in begins if at < left_out), default=0)
        assert sum(tokens[before:]) > budget_tokens * KEPT_WHEN_FULL, "one turn more would have had room"
        ours = [
            self.shown[stored.id][2] for stored in path if self.shown.get(stored.id, ())[:2] == (model, budget_tokens)
        ]
        # Of a conversation that is read from its root, the cut is worked out from there.
        if ours and turn.earlier.messages and sum(tokens[ours[-1] :]) <= budget_tokens:
            assert left_out == ours[-1], "there was no need to begin elsewhere"
        return left_out

    async def path(self, leaf: int) -> tuple[StoredMessage, ...]:
        return await self.database.read(lambda connection: tree.path_to(connection, leaf))


def call(model: str, context_tokens: int) -> Any:
    return SimpleNamespace(
        lease=SimpleNamespace(upstream=None, counted_by=model),
        template=SimpleNamespace(base_tokens=0, context_tokens=context_tokens),
        sampling=SimpleNamespace(max_tokens=0),
        tools=(),
        mode="guided",
        decides_first=False,
        system_text=lambda **_: "",
    )
