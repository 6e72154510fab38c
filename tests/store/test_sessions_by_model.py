"""Sessions against a tree of plain Python objects: whatever is said in whatever order, both tell the same story."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.messages import Message
from app.store.db import Database
from tests.store.talk import Talk, answer, tool_round, user

T = TypeVar("T")

# Few, and some alike but for white space, so that paths meet often.
TEXTS = st.sampled_from(["yes", " yes", "no", "why\n"])


@dataclass(eq=False)
class Node:
    """A visible message, with the tool messages that led to it."""

    order: int
    message: Message | None = None
    hidden: list[Message] = field(default_factory=list)
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)

    def is_what_was_said(self, said: Message) -> bool:
        mine = self.message
        return mine is not None and (mine.role, mine.content.strip()) == (said.role, said.content.strip())

    def below(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            yield from child.below()

    def path(self) -> list[Message]:
        before = self.parent.path() if self.parent else []
        return [*before, *self.hidden, *([self.message] if self.message else [])]


def deepest(node: Node, said: list[Message]) -> tuple[int, int, Node]:
    """How far it matches, its order, the node: the largest is the one to continue."""
    deeper = [deepest(child, said[1:]) for child in node.children if said and child.is_what_was_said(said[0])]
    return max([(matched + 1, order, at) for matched, order, at in deeper], default=(0, node.order, node))


class SessionMachine(RuleBasedStateMachine):
    """One session; turns are opened in both ways, answered, given up, and reset."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.database = self.run(Database.open(Path(self.folder.name) / "airlab.db"))
        self.talk = Talk(self.database)
        self.numbers = itertools.count()
        self.root = self.head = Node(next(self.numbers))
        self.open: tuple[int, Node] | None = None

    def run(self, awaitable: Awaitable[T]) -> T:
        async def waited() -> T:
            return await awaitable

        return self.runner.run(waited())

    def teardown(self) -> None:
        self.run(self.database.close())
        self.runner.close()
        self.folder.cleanup()

    @precondition(lambda self: self.open is None)
    @rule(said=st.lists(TEXTS, min_size=1, max_size=2))
    def say(self, said: list[str]) -> None:
        self._begin([user(text) for text in said], self.head, from_root=False)

    @precondition(lambda self: self.open is None)
    @rule(data=st.data(), said=TEXTS)
    def say_all(self, data: Any, said: str) -> None:
        known: Node = data.draw(st.sampled_from(list(self.root.below())), label="continue from")
        visible = [message for message in known.path() if message.visible]
        if visible and data.draw(st.booleans(), label="edited"):
            changed = data.draw(st.integers(0, len(visible) - 1), label="where")
            visible[changed] = Message(visible[changed].role, said)
        self._begin([*visible, user(said)], self.root, from_root=True)

    @precondition(lambda self: self.open is not None)
    @rule(text=TEXTS, rounds=st.integers(0, 2))
    def answer(self, text: str, rounds: int) -> None:
        assert self.open is not None
        turn_id, at = self.open
        hidden = [message for number in range(rounds) for message in tool_round(str(number))]
        if hidden:
            self.run(self.talk.sessions.append(turn_id, hidden))
        self.run(self.talk.sessions.close_turn(turn_id, answer(text)))
        self.head = self._add(at, answer(text), hidden)
        self.open = None

    @precondition(lambda self: self.open is not None)
    @rule()
    def give_up(self) -> None:
        assert self.open is not None
        assert self.run(self.talk.sessions.end_turn(self.open[0], "cancelled"))
        self.open = None

    @precondition(lambda self: self.open is None)
    @rule()
    def reset(self) -> None:
        self.run(self.talk.sessions.reset(self.talk.key))
        self.head = self.root

    @invariant()
    def branch_is_the_same(self) -> None:
        branch = self.run(self.talk.sessions.branch(self.talk.key))
        assert [stored.message for stored in branch] == self.head.path()

    @invariant()
    def as_much_is_stored(self) -> None:
        expected = sum(len(node.hidden) + (node.message is not None) for node in self.root.below())
        assert self.run(self.talk.stored()) == expected

    def _begin(self, said: list[Message], start: Node, *, from_root: bool) -> None:
        turn = self.run(self.talk.open(*said, from_root=from_root))
        matched, _, at = deepest(start, said)
        for message in said[matched:]:
            at = self._add(at, message, [])
        assert [stored.message for stored in turn.path] == at.path()
        self.open = (turn.id, at)

    def _add(self, parent: Node, message: Message, hidden: list[Message]) -> Node:
        node = Node(next(self.numbers), message, hidden, parent)
        parent.children.append(node)
        return node


SessionMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestSessionsByModel = SessionMachine.TestCase
