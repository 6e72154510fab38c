"""One message without a terminal: the answer alone on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from app.chat.events import short_arguments
from app.cli.chat.clean import Cleaner, clean
from app.client.client import Client
from app.client.events import Cut, Event, Notice, Retrying, Token, ToolEnded, TurnDone, TurnOpened
from app.errors import ServerAwayError


def answer(client: Client, text: str, *, session_id: str, settings: dict[str, Any], as_json: bool) -> None:
    """Send a message and print the answer, as it comes; or, once it is whole, as JSON.

    Raises:
        AirLabError: The turn failed.
    """
    events = client.send_message(text, session_id=session_id, **settings)
    if as_json:
        print(json.dumps(gather(_noted(event) for event in events)))
        return
    printed, cleaner = "", Cleaner()
    for event in events:
        _noted(event)
        if isinstance(event, TurnOpened) and printed:
            # What is out cannot be taken back, and half an answer before a whole one must not look like one.
            raise ServerAwayError("AirLab broke off in the middle of the answer; say it again")
        if isinstance(event, Token):
            piece = cleaner.feed(event.text)
            sys.stdout.write(piece)
            sys.stdout.flush()
            printed = piece or printed
    rest = cleaner.rest()
    print(rest, end="" if (rest or printed).endswith("\n") else "\n")


def gather(events: Iterable[Event]) -> dict[str, Any]:
    """The turn as POST /chat answers it without streaming."""
    text = ""
    notices: list[str] = []
    calls: list[dict[str, Any]] = []
    cut: dict[str, Any] | None = None
    done: TurnDone | None = None
    for event in events:
        match event:
            case Retrying():
                text, notices, calls, cut = "", [], [], None
            case Token(text=piece):
                text += piece
            case Notice(message=message):
                notices.append(message)
            case ToolEnded():
                calls.append(_fields(event))
            case Cut():
                cut = _fields(event)
            case TurnDone():
                done = event
            case _:
                pass
    used = [f"{call['name']}({short_arguments(call['arguments'])})" for call in calls if call["ran"]]
    gathered = {"tools_used": used, "tool_calls": calls, "cut": cut, "notices": notices}
    return {"response": text, **(_fields(done) if done else {}), **gathered}


def _fields(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__}


def _noted(event: Event) -> Event:
    """The event, after what of it a person should see."""
    match event:
        case Notice(message=message):
            print(f"airlab: {clean(message)}", file=sys.stderr)
        case ToolEnded(name=name, status=status):
            print(f"airlab: {clean(name)}: {clean(status)}", file=sys.stderr)
        case Retrying(why=why, wait_s=wait_s):
            print(f"airlab: {clean(why)}; trying again after {wait_s:g} s", file=sys.stderr)
        case _:
            pass
    return event
