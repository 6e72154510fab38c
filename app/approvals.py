"""Calls that wait for a person's word. Owns those that are pending; each is answered once, or its time runs out.

Runs nothing and judges nothing: a yes only lets the gate look at the rules again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from app.errors import ApprovalNotFoundError
from app.journal import Fact, Journal
from app.messages import ToolCall

LIMIT_S = 60.0
"""How long a person may think; then the answer is no."""
_MOST = 64
"""Calls that wait at the same time; more could not be answered in time anyway."""
_SHOWN_CHARACTERS = 300
"""How much of an argument is shown in words; the arguments themselves stand beside them, whole."""

Outcome = Literal["granted", "refused", "expired", "closed"]
"""``closed``: too much waits already, or AirLab is stopping."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A call that waits: what would be done, asked by whom."""

    id: str
    """Cannot be guessed; whoever answers names it."""
    call_id: str
    tool: str
    words: str
    """What would be done, for the person who is asked; nothing in it steers a terminal."""
    arguments: str
    """JSON: exactly what the tool would run with."""
    actor: str
    session: str | None
    limit_s: float
    """Seconds that there are to answer, counted from ``asked_ms``."""
    asked_ms: int
    """UTC, in milliseconds since 1970."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for clients."""
        return asdict(self) | {"expires_ms": self.asked_ms + round(self.limit_s * 1000)}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking."""

    outcome: Outcome
    by: str | None = None
    """The name of the key that answered; None when nobody did."""


@dataclass(frozen=True, slots=True)
class ApprovalAsked(Fact):
    """A call waits for a person."""

    tool: str
    actor: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class ApprovalEnded(Fact):
    """A call waits no more."""

    tool: str
    outcome: str
    """What came of it, or ``left``: its caller went away."""
    by: str | None


class Approvals:
    """The calls that wait."""

    def __init__(self, journal: Journal, *, limit_s: float = LIMIT_S) -> None:
        """Nothing waits yet; ``limit_s`` is the longest that anything will."""
        self._journal, self._limit_s = journal, limit_s
        self._pending: dict[str, tuple[Approval, asyncio.Future[Answer]]] = {}
        self._closed = False

    def pending(self, actor: str | None = None) -> tuple[Approval, ...]:
        """What waits now, oldest first; with ``actor`` only what that key asked for."""
        return tuple(approval for approval, _ in self._pending.values() if actor in (None, approval.actor))

    async def ask(
        self,
        call: ToolCall,
        arguments: Mapping[str, Any],
        *,
        why: str,
        actor: str,
        session: str | None,
        rest_s: float,
        tell: Callable[[Approval], None],
    ) -> Answer:
        """Wait for the answer to one call; a caller who goes away takes the question along.

        Args:
            call: The call.
            arguments: What it would run with.
            why: Why it needs a person.
            actor: Who asked for it.
            session: In which conversation.
            rest_s: Seconds that the caller has left.
            tell: Shows the question to whoever may answer it.
        """
        limit_s = min(self._limit_s, rest_s)
        if self._closed or len(self._pending) >= _MOST:
            return Answer("closed")
        words = f"{in_words(call.name, arguments)}: {why}"
        text, now_ms = json.dumps(arguments, ensure_ascii=False), time.time_ns() // 1_000_000
        approval = Approval(secrets.token_urlsafe(16), call.id, call.name, words, text, actor, session, limit_s, now_ms)
        future = asyncio.get_running_loop().create_future()
        self._pending[approval.id] = (approval, future)
        answer, ended = Answer("expired"), "left"
        try:
            self._journal.note(ApprovalAsked(call.name, actor, limit_s))
            tell(approval)
            async with asyncio.timeout(limit_s):
                answer = await asyncio.shield(future)
            ended = answer.outcome
        except TimeoutError:
            # Somebody may have answered in the same moment, and was told that it counts.
            answer = future.result() if future.done() else answer
            ended = answer.outcome
        finally:
            self._pending.pop(approval.id, None)
            self._journal.note(ApprovalEnded(call.name, ended, answer.by))
        return answer

    def answer(self, approval_id: str, *, grant: bool, by: str, actor: str | None) -> Approval:
        """Say yes or no to a call that waits.

        Args:
            approval_id: Which.
            grant: Yes or no.
            by: Who says so.
            actor: Only what this key asked for may be answered; None: anything.

        Raises:
            ApprovalNotFoundError: Nothing waits under that id: it was answered, its time ran out, or its caller left.
        """
        approval, future = self._pending.get(approval_id, (None, None))
        if approval is None or future is None or actor not in (None, approval.actor):
            raise ApprovalNotFoundError("nothing waits for that answer: it was given, or the time for it is over")
        del self._pending[approval_id]
        future.set_result(Answer("granted" if grant else "refused", by))
        return approval

    def close(self) -> None:
        """Refuse everything that waits, and everything that comes."""
        self._closed = True
        for _, future in self._pending.values():
            future.set_result(Answer("closed"))
        self._pending.clear()


def in_words(tool: str, arguments: Mapping[str, Any]) -> str:
    """A call as a person reads it: ``delete_file(path="/ws/a", recursive=true)``; long values say how long they are."""
    return f"{tool}({', '.join(f'{name}={_shown(value)}' for name, value in arguments.items())})"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    more = len(text) - _SHOWN_CHARACTERS
    # Printed to terminals and on pages: nothing may turn its direction or clear what stands above it.
    plain = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:_SHOWN_CHARACTERS])
    return f"{plain} [and {more} characters more]" if more > 0 else plain
