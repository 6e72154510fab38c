"""What happens in a turn, as typed events; the JSON answer is the same events, folded.

Every event has a name on the wire (``event``), which stays as it is: clients compare it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, ClassVar, Literal

from msgspec import DecodeError, Struct, convert, json, to_builtins

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
    user_message_id: int | None = None
    """The user message that is answered; an edit names it."""


class HistoryCut(TurnEvent, frozen=True, kw_only=True):
    """The history did not fit: what of it the model was not shown. It all stays stored."""

    event = "cut"
    messages: int
    """Left out at the beginning."""
    tokens: int
    """That they would have taken, about: what was left out long ago is not counted anew for another model."""
    shortened: int
    """Tool results of which the model was shown a part."""
    budget_tokens: int
    first_kept: int
    """Id of the oldest message that was shown."""


class Waiting(TurnEvent, frozen=True, kw_only=True):
    """The turn waits for its model: ``state`` is the model's, ``ahead`` how many requests come before."""

    event = "waiting"
    model: str
    state: str
    ahead: int
    eta_s: float | None = None
    """Seconds until it is served, by loads and requests so far; null where nothing was measured yet."""


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
    message_id: int | None = None
    """The answer; a fork or a regeneration names it."""
    user_message_id: int | None = None
    replayed: bool = False
    """True when this is what was answered before to the same Idempotency-Key."""
    tokens_input: int = 0
    tokens_generated: int = 0
    tokens_total: int = 0
    generation_time: float = 0.0
    tokens_per_second: float = 0.0


def fold(events: Iterable[TurnEvent]) -> dict[str, Any]:
    """The JSON answer of a turn that ended well: its last event, with what came before gathered in it."""
    text, notices, calls, used = [], [], [], []
    done: dict[str, Any] = {}
    cut = None
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
            case HistoryCut():
                cut = to_builtins(event)
            case TurnDone():
                done = to_builtins(event)
            case _:
                pass
    gathered = {"tools_used": used, "tool_calls": calls, "notices": notices, "cut": cut}
    return {"response": "".join(text), **done, **gathered}


_REPLAYED = {kind.event: kind for kind in (TurnOpened, Token, Reasoning, ToolStarted, ToolEnded, Notice, HistoryCut)}


def kept(events: Iterable[TurnEvent], done: TurnDone) -> str:
    """A turn as JSON, for who asks again: pieces of text joined, what was waited for left out."""
    told: list[TurnEvent] = []
    for kind, alike in groupby((event for event in events if event.event in _REPLAYED), key=type):
        if kind in {Token, Reasoning}:
            pieces = [piece.text for piece in alike if isinstance(piece, Token | Reasoning)]
            told.append(kind(text="".join(pieces)))
        else:
            told.extend(alike)
    return json.encode([[event.event, event] for event in (*told, done)]).decode()


def replayed(text: str, *, message_id: int) -> list[TurnEvent]:
    """The events of a turn that was kept; ``message_id`` is its answer."""
    *told, (_, done) = json.decode(text)
    again = convert({**done, "replayed": True, "message_id": message_id}, TurnDone)
    return [*(convert(event, _REPLAYED[name]) for name, event in told), again]


def short_arguments(arguments: str) -> str:
    """Arguments as a person would write them: ``{"hostname": "google.com"}`` is ``google.com``."""
    try:
        values = json.decode(arguments)
    except (DecodeError, UnicodeError, RecursionError):
        return arguments[:200]
    if not isinstance(values, dict):
        return arguments[:200]
    return ", ".join(str(value) for value in values.values())[:200]
