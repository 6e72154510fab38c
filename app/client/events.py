"""What happens in a turn, as a client gets to know it; names and fields as docs/chat.md has them.

Fields that a newer AirLab adds are left out, an event that it adds is an ``Other``: an older client goes on working.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TurnOpened:
    """What was said is stored. After ``Retrying`` it says that the turn is told from its beginning again."""

    session_id: str
    turn: int
    model: str
    user_message_id: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The turn waits for its model: ``state`` is the model's, ``ahead`` how many requests come before."""

    model: str
    state: str
    ahead: int
    eta_s: float | None = None
    """Seconds until it is served, as far as AirLab can tell."""


@dataclass(frozen=True, slots=True)
class Token:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The next piece of what the model thinks aloud."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """The model asked for a tool; ``arguments`` is JSON as it wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """A call waits ``limit_s`` seconds for ``Client.answer_approval(id, grant=...)``; silence is a no."""

    id: str
    call: str
    tool: str
    words: str
    arguments: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A call is answered: ``status`` is ok, error or denied; ``result`` is what the model is told."""

    id: str
    name: str
    arguments: str
    status: str
    result: str
    verdict: str
    duration_s: float
    ran: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know that is no error."""

    message: str


@dataclass(frozen=True, slots=True)
class Cut:
    """The model was not shown all of the conversation: so many messages and tokens were left out."""

    messages: int
    tokens: int
    shortened: int = 0
    budget_tokens: int = 0
    first_kept: int | None = None


@dataclass(frozen=True, slots=True)
class TurnDone:
    """The turn is stored as a whole. Counts are in tokens, times in seconds."""

    session_id: str
    model: str
    device: str
    finish_reason: str
    tokens_input: int = 0
    tokens_generated: int = 0
    tokens_total: int = 0
    generation_time: float = 0.0
    tokens_per_second: float = 0.0
    message_id: int | None = None
    user_message_id: int | None = None
    replayed: bool = False
    """Whether this is the stored answer to a message that was sent again."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """Not from AirLab: it is away, and is asked again after ``wait_s`` seconds; ``why`` is for people."""

    why: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class Other:
    """An event that this client does not know."""

    name: str
    data: Mapping[str, Any]


Event = (
    TurnOpened
    | Waiting
    | Token
    | Reasoning
    | ToolStarted
    | ApprovalAsked
    | ToolEnded
    | Notice
    | Cut
    | TurnDone
    | Retrying
    | Other
)

_KINDS: dict[str, type[Any]] = {
    "turn": TurnOpened,
    "waiting": Waiting,
    "token": Token,
    "reasoning": Reasoning,
    "tool_start": ToolStarted,
    "approval": ApprovalAsked,
    "tool_result": ToolEnded,
    "notice": Notice,
    "cut": Cut,
    "done": TurnDone,
}


def read_event(name: str, data: Mapping[str, Any]) -> Event:
    """The event of that name; ``Other`` where it is not known, or lacks a field that it should have."""
    kind = _KINDS.get(name)
    event: Event | None = None if kind is None else pick(kind, data)
    return Other(name, data) if event is None else event


def pick(kind: type[T], data: Mapping[str, Any]) -> T | None:
    """A dataclass from the fields of ``data`` that it has; None where one is missing that it needs."""
    known = {field.name: data[field.name] for field in fields(kind) if field.name in data}  # type: ignore[arg-type]
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    return kind(**known) if needed <= known.keys() else None
