"""Asks whoever sits at the terminal, for as long as there is time; no answer is a no."""

from __future__ import annotations

import json
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from app.cli.chat.clean import clean
from app.client.events import ApprovalAsked

_SHOWN_WHOLE = 300
"""Words longer than this leave something of the arguments out, so these are shown besides."""
_MOST_SHOWN = 4000


def allows(console: Console, asked: ApprovalAsked) -> bool:
    """Whether the person allows a call."""
    console.print(Text(f"May it? {clean(asked.words)}", style="bold yellow"))
    if len(asked.arguments) > _SHOWN_WHOLE:
        console.print(Text(_whole(asked.arguments), style="yellow"))
    console.print(Text(f"[y/N, {asked.limit_s:.0f} s] ", style="bold yellow"), end="")
    # What was typed before the question was seen is no answer to it.
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    with echo(on=True):
        ready, _, _ = select.select([sys.stdin], [], [], asked.limit_s)
        answer = sys.stdin.readline().strip().lower() if ready else ""
    if not ready:
        console.print("\nno answer in time, so: no")
    return answer in {"y", "yes"}


def _whole(arguments: str) -> str:
    try:
        text = json.dumps(json.loads(arguments), indent=1, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = arguments
    more = len(text) - _MOST_SHOWN
    return clean(text[:_MOST_SHOWN]) + (f"\n[and {more} characters more: say no if in doubt]" if more > 0 else "")


@contextmanager
def echo(*, on: bool) -> Iterator[None]:
    """What is typed is shown, or not: beside an answer that is being drawn it would only disturb."""
    before = termios.tcgetattr(sys.stdin)
    changed = termios.tcgetattr(sys.stdin)
    changed[3] = changed[3] | termios.ECHO if on else changed[3] & ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
