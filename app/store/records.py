"""What the store hands out: frozen copies of rows, with no way back into the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from app.messages import Message

TurnStatus = Literal["open", "done", "cancelled", "failed", "interrupted"]


class SessionKey(NamedTuple):
    """Which session: the same name under another owner is another session."""

    owner: str
    """Name of the key that made it."""
    name: str
    """The session_id that the client sends."""


class TokenCount(NamedTuple):
    """How long a message is, and in whose tokens."""

    tokens: int
    counted_by: str
    """The model whose tokenizer counted."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message with its place in the tree."""

    id: int
    """Larger than its parent's; never used again."""
    message: Message
    count: TokenCount | None
    """None until somebody counted."""
    turn_id: int
    """The turn that stored it; a later turn may have reused it."""
    created_ms: int


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """How a turn went."""

    id: int
    status: TurnStatus
    model: str
    started_ms: int
    ended_ms: int | None
    error: str | None
    detail: Mapping[str, Any]
    """What was given to ``close_turn``; empty for other turns."""


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn that has begun: it is to be closed or ended."""

    id: int
    path: tuple[StoredMessage, ...]
    """The conversation from its root to the newest message, tool rounds included."""
    previous_unfinished: TurnInfo | None
    """The session's last turn, if it brought no answer: the next answer can say so."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as a page shows it."""

    key: SessionKey
    created_ms: int
    updated_ms: int
    branch: tuple[StoredMessage, ...]
    """The active branch, root first."""
    turns: tuple[TurnInfo, ...]
    """Every turn, on whatever branch, oldest first."""
