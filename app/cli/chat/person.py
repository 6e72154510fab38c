"""Whoever sits at the terminal: asked for a yes, for as long as there is time, and kept from disturbing the picture."""

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

_SHOWN_WHOLE = 300
"""Words longer than this leave something of the arguments out, so these are shown besides."""
_MOST_SHOWN = 4000


def allows(console: Console, *, words: str, arguments: str, limit_s: float) -> bool:
    """Whether the person allows a call.

    Args:
        console: Where it is asked.
        words: What the call would do.
        arguments: JSON: what it would run with.
        limit_s: How long it waits for the answer; none in that time is a no.
    """
    console.print(Text(f"May it? {clean(words)}", style="bold yellow"))
    if len(arguments) > _SHOWN_WHOLE:
        console.print(Text(_whole(arguments), style="yellow"))
    with answering():
        # What was typed before the question was seen is no answer to it; what is typed from here on is one.
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        console.print(Text(f"[y/N, {limit_s:.0f} s] ", style="bold yellow"), end="")
        ready, _, _ = select.select([sys.stdin], [], [], limit_s)
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
def unechoed() -> Iterator[None]:
    """What is typed ahead waits for the next prompt as it was typed, and is not drawn into an answer.

    A terminal that reads lines would make a line feed of Enter, which the prompt takes for another key, and swallow a
    Ctrl-D.
    """
    with _modes(lines=False):
        yield


@contextmanager
def answering() -> Iterator[None]:
    """A line can be read as usual."""
    with _modes(lines=True):
        yield


@contextmanager
def _modes(*, lines: bool) -> Iterator[None]:
    before, modes = termios.tcgetattr(sys.stdin), termios.tcgetattr(sys.stdin)
    reads_lines = termios.ECHO | termios.ICANON
    modes[0] = modes[0] | termios.ICRNL if lines else modes[0] & ~termios.ICRNL
    modes[3] = modes[3] | reads_lines if lines else modes[3] & ~reads_lines
    modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
    termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
