"""An answer that grows, as Markdown: what cannot change any more is split off, the rest fits on the screen."""

from __future__ import annotations

import re

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.segment import Segment

from app.cli.chat.clean import clean

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


class Clean:
    """Something for Rich to print, cleaned once more on its way out: Markdown may spell a character in other ways."""

    def __init__(self, inner: RenderableType) -> None:
        """``inner`` may itself emit no control codes of its own; nothing that is printed here does."""
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inner, options):
            if segment.control is None:
                yield Segment(clean(segment.text), segment.style)


def markdown(text: str) -> Clean:
    """Text as Markdown. Links are printed with their address: what is clicked on is what is read."""
    return Clean(Markdown(clean(text), hyperlinks=False))


def split_settled(text: str) -> tuple[str, str]:
    """The blocks of a growing text that are over, and the rest: it is cut at the last empty line outside of a fence."""
    fence, place, cut = "", 0, 0
    for line in text.splitlines(keepends=True):
        place += len(line)
        marks = _FENCE.fullmatch(line.rstrip("\n"))
        if marks is None:
            cut = place if not fence and line == "\n" else cut
        elif not fence:
            fence = marks[1]
        elif marks[1].startswith(fence) and not marks[2].strip():
            fence = ""
    return text[:cut], text[cut:]


class Tail:
    """Markdown of which only the last lines are shown, as many as the screen has room for beside a status line."""

    def __init__(self, text: str) -> None:
        """Show this text."""
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(markdown(self._text), options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - 3) :]:
            yield from line
            yield Segment.line()
