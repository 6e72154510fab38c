"""What happens in a turn, as typed events; the JSON answer is the same events, folded.

Every event has a name on the wire (``event``), which stays as it is: clients compare it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from msgspec import DecodeError, Struct, json, to_builtins

FinishReason = Literal["stop", "length", "tool_limit", "reset"]


class TurnEvent(Struct, frozen=True, kw_only=True):
    """Something that happened in a turn."""

    event: ClassVar[str]


class TurnOpened(TurnEvent, frozen=True, kw_only=True):
    """What the user said is stored."""

    event = "turn"
    session_id: str
    turn: int
    model: str


class Waiting(TurnEvent, frozen=True, kw_only=True):
    """The turn waits for its model: ``state`` is the model's, ``ahead`` how many requests come before."""

    event = "waiting"
    model: str
    state: str
    ahead: int


class Token(TurnEvent, frozen=True, kw_only=True):
    """The next piece of the answer."""

    event = "token"
    text: str


class Reasoning(TurnEvent, frozen=True, kw_only=True):
    """The next piece of what the model thinks aloud; it is not part of the answer."""

    event = "reasoning"
    text: str


class ToolStarted(TurnEvent, frozen=True, kw_only=True):
    """The model asked for a tool."""

    event = "tool_start"
    id: str
    name: str
    arguments: str


class ApprovalAsked(TurnEvent, frozen=True, kw_only=True):
    """A call waits for a person's word: POST /approvals/{id} with ``{"grant": true}`` or false; silence is a no."""

    event = "approval"
    id: str
    call: str
    """The id of the tool call."""
    tool: str
    words: str
    """What would be done."""
    arguments: str
    limit_s: float
    """Seconds that there are to answer."""


class ToolEnded(TurnEvent, frozen=True, kw_only=True):
    """A call is answered: ``result`` is what the model is told."""

    event = "tool_result"
    id: str
    name: str
    arguments: str
    status: str
    """ok, error or denied."""
    result: str
    verdict: str
    duration_s: float
    ran: bool
    """Whether the tool was run, whatever came of it."""


class Notice(TurnEvent, frozen=True, kw_only=True):
    """Something the user should know that is no error."""

    event = "notice"
    message: str


class TurnDone(TurnEvent, frozen=True, kw_only=True):
    """The turn is stored as a whole. Counts are in tokens, times in seconds."""

    event = "done"
    session_id: str
    model: str
    device: str
    finish_reason: FinishReason
    tokens_input: int = 0
    tokens_generated: int = 0
    tokens_total: int = 0
    generation_time: float = 0.0
    tokens_per_second: float = 0.0


def fold(events: Iterable[TurnEvent]) -> dict[str, Any]:
    """The JSON answer of a turn that ended well: its last event, with what came before gathered in it."""
    text, notices, calls, used = [], [], [], []
    done: dict[str, Any] = {}
    for event in events:
        match event:
            case Token(text=piece):
                text.append(piece)
            case Notice(message=message):
                notices.append(message)
            case ToolEnded():
                calls.append(to_builtins(event))
                if event.ran:
                    used.append(f"{event.name}({short_arguments(event.arguments)})")
            case TurnDone():
                done = to_builtins(event)
            case _:
                pass
    return {"response": "".join(text), **done, "tools_used": used, "tool_calls": calls, "notices": notices}


def short_arguments(arguments: str) -> str:
    """Arguments as a person would write them: ``{"hostname": "google.com"}`` is ``google.com``."""
    try:
        values = json.decode(arguments)
    except (DecodeError, UnicodeError, RecursionError):
        return arguments[:200]
    if not isinstance(values, dict):
        return arguments[:200]
    return ", ".join(str(value) for value in values.values())[:200]
