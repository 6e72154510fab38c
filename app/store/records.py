"""What the store hands out: frozen copies of rows, with no way back into the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
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
class SessionSettings:
    """How a session's turns are answered where the request says nothing; None leaves it to the manifest."""

    model: str | None = None
    system_prompt: str | None = None
    enable_tools: bool | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    repeat_penalty: float | None = None

    def given(self) -> dict[str, Any]:
        """What is set."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if value is not None}

    def over(self, other: SessionSettings) -> SessionSettings:
        """These, and where they say nothing, the other's."""
        return SessionSettings(**{**other.given(), **self.given()})


class Again(NamedTuple):
    """A place in a stored tree from which a turn begins, other than the end of the active branch."""

    way: Literal["edit", "regenerate", "resume"]
    """``edit``: beside a user message. ``regenerate``: below the user message that an answer answers. ``resume``: where
    the session's last turn broke off."""
    message_id: int | None = None
    """None: the active branch's last answer."""


class Once(NamedTuple):
    """A request that must lead to one turn, however often it is sent."""

    owner: str
    key: str
    """What the client calls it (``Idempotency-Key``)."""
    request: bytes
    """Digest of what was asked: the same key for something else is a mistake."""


class Kept(NamedTuple):
    """What is kept of a turn that was asked for once."""

    once: Once
    events: str
    """What the turn told, as JSON; the store does not read it."""


class KeptAnswer(NamedTuple):
    """What was answered to such a request."""

    request: bytes
    events: str
    message_id: int


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message with its place in the tree."""

    id: int
    """Larger than its parent's; never used again."""
    parent: int | None
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
    asked: SessionSettings
    """What the request itself set."""


class Earlier(NamedTuple):
    """The older part of a conversation, which nobody needs to read."""

    messages: int
    tokens: int
    """About: some were counted by another model, or never."""


NOTHING_EARLIER = Earlier(0, 0)


class LastCut(NamedTuple):
    """What the last answer's model was not shown: where the next cut goes on from."""

    messages: int
    tokens: int
    budget_tokens: int
    first_kept: int
    """Id of the oldest message that was shown."""


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn that has begun: it is to be closed or ended."""

    id: int
    path: tuple[StoredMessage, ...]
    """The conversation up to its newest message, tool rounds included: from its root, or from a user message before
    which nothing can have room."""
    previous_unfinished: TurnInfo | None
    """The session's last turn, if it brought no answer: the next answer can say so."""
    earlier: Earlier = NOTHING_EARLIER
    """What stands before ``path``."""
    last_cut: LastCut | None = None
    """Where something does, and the last answer on ``path`` was given without a part of it."""

    @property
    def user_message_id(self) -> int | None:
        """The user message that the turn answers."""
        return next((stored.id for stored in reversed(self.path) if stored.message.role == "user"), None)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as a list shows it."""

    row: int
    """Its number in the database, which an export goes by; not for clients."""
    key: SessionKey
    title: str | None
    """Its name for people."""
    titled: bool
    """True when somebody set the name; else it is the beginning of the first user message."""
    pinned: bool
    created_ms: int
    updated_ms: int
    version: int
    """Grows with every change of name, pin, settings or active branch."""
    messages: int
    """User messages and answers, on all branches."""
    head: int | None
    """The last answer of the active branch."""
    settings: SessionSettings
    last_turn: tuple[int, TurnStatus] | None


class Match(NamedTuple):
    """Where what was searched for occurs."""

    message_id: int | None
    """None: in the session's name."""
    role: str | None
    snippet: str
    highlights: tuple[tuple[int, int], ...]
    """Beginnings and ends within the snippet, in characters."""


class Found(NamedTuple):
    """A session of a list, with what it was found by."""

    info: SessionInfo
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as a page shows it."""

    info: SessionInfo
    branch: tuple[StoredMessage, ...]
    """The active branch, root first; a view of the whole tree has all messages here, by id."""
    turns: tuple[TurnInfo, ...]
    """Every turn, on whatever branch, oldest first."""

    @property
    def key(self) -> SessionKey:
        """Whose it is, and how it is called in requests."""
        return self.info.key
