"""What AirLab answers, as frozen records. Fields that a newer AirLab adds are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.client.events import pick
from app.errors import ServerAwayError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Health:
    """Whether AirLab is well; without a key, where keys are set, the first three fields only."""

    status: str
    message: str
    model_key: str
    state: str | None = None
    device: str | None = None
    loaded: bool | None = None
    generation: int | None = None
    reload_error: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the manifest, or one that was dropped into models/custom/."""

    key: str
    name: str
    exists: bool
    """Whether its file is there."""
    loaded: bool
    state: str
    source: str
    description: str = ""
    recommended: bool = False
    is_finetuned: bool = False
    base_model: str | None = None
    context_length: int | None = None
    vram_estimate: str | None = None
    problem: str | None = None
    """Why it cannot start, if so."""
    fit: Mapping[str, Any] | None = None
    """What AirLab says of the memory it needs, where it says something."""
    download: Mapping[str, Any] | None = None
    """How far its download is, where there is one."""
    current: bool = False
    """Whether it serves when a request names none."""


@dataclass(frozen=True, slots=True)
class Switched:
    """What a switch led to; ``load_time`` in seconds."""

    status: str
    message: str
    model_key: str
    previous_model_key: str
    load_time: float


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """What a command of the server led to."""

    message: str
    current_value: str


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation that the server keeps. Times are UTC milliseconds."""

    session_id: str
    name: str | None
    version: int
    """Grows with every change; named in a change, the change is refused when somebody else was faster."""
    created_ms: int
    updated_ms: int
    pinned: bool = False
    name_set: bool = False
    message_count: int = 0
    """What users said and what was answered, in all branches."""
    head: int | None = None
    """The last answer of the active branch."""
    last_turn: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    matches: tuple[Mapping[str, Any], ...] = ()
    """Where the words of a search stand."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of a conversation, as it is stored."""

    id: int
    parent: int | None
    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None
    tokens: int | None = None
    turn: int | None = None
    created_ms: int | None = None
    active: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session with its messages: the active branch, root first, or the whole tree."""

    session: Session
    messages: tuple[StoredMessage, ...]
    turns: tuple[Mapping[str, Any], ...]
    undone: str | None = None
    """What the user had said last, after an undo."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A tool call that waits for a person's word."""

    id: str
    tool: str
    words: str
    arguments: str
    limit_s: float


def shaped(kind: type[T], data: Any) -> T:
    """The record in ``data``. Raises ServerAwayError where it is none: what answers is then no AirLab, or another."""
    record = pick(kind, data) if isinstance(data, Mapping) else None
    if record is None:
        raise ServerAwayError(f"what answers is no AirLab of this client's kind: no {kind.__name__} in its answer")
    return record


def conversation(data: Mapping[str, Any]) -> Conversation:
    """A session with its messages."""
    messages = tuple(shaped(StoredMessage, message) for message in data["messages"])
    undone = (data.get("undone") or {}).get("content")
    return Conversation(shaped(Session, data), messages, tuple(data["turns"]), undone)
