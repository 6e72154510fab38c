"""What is wrong with a manifest: the problem, its place in the text, and how both are shown to people.

Knows nothing of YAML or of the schema; whoever finds a problem says where it is and what would be right.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from app.errors import ManifestError

Path = tuple[str | int, ...]
"""Where a value lives in the manifest: keys, and positions in lists counted from 0."""

MAX_PROBLEMS = 100
_SHOWN_CHARS = 120
_LINE_BREAK = re.compile(r"\r\n|\n|\r")
_PLAIN_KEY = re.compile(r"[\w.:/@-]{1,80}")


class Place(NamedTuple):
    """A stretch of one line; line and column count from 1, the column in characters."""

    line: int
    column: int
    width: int


@dataclass(frozen=True)
class Source:
    """The manifest's text under the name that people know it by."""

    name: str
    text: str

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_BREAK.finditer(self.text))]

    def line(self, number: int) -> str:
        """The text of one line, counted from 1, without its line break."""
        start = self._line_starts[number - 1]
        end = self._line_starts[number] if number < len(self._line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def place(self, start: int, end: int) -> Place:
        """Where the characters from ``start`` up to ``end`` stand: at most to the end of the line they begin on.

        Editors decide what a line is here, and not YAML 1.1, for which U+2028 ends one too.
        """
        start = min(start, len(self.text))
        number = bisect_right(self._line_starts, start)
        column = start - self._line_starts[number - 1] + 1
        rest = len(self.line(number).rstrip()) - column + 1
        return Place(number, column, max(1, min(end - start, rest)))


@dataclass(frozen=True)
class Problem:
    """One mistake: what is wrong, where, what is allowed instead, and what to do."""

    path: Path
    line: int
    column: int
    message: str
    allowed: str | None = None
    fix: str | None = None
    suggestion: str | None = None
    """The name most likely meant, for a program that wants to offer it."""
    width: int = 1
    """How many characters the mistake covers on its line."""

    def render(self, source: Source) -> str:
        """The problem in the words of a compiler: place, message, the line with a mark under it, the way out.

        Without any text (a file that could not be read) there is no place to show.
        """
        what = f"{shown_path(self.path)}: {self.message}" if self.path else self.message
        if source.text:
            lines = [f"{source.name}:{self.line}:{self.column}: {what}", *self._marked(source.line(self.line))]
        else:
            lines = [f"{source.name}: {what}"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix:
            lines.append(f"  to fix:  {self.fix}")
        return "\n".join(lines)

    def _marked(self, line: str) -> Iterable[str]:
        first = max(0, self.column - _SHOWN_CHARS // 2) if len(line) > _SHOWN_CHARS else 0
        part = line[first : first + _SHOWN_CHARS]
        # Printed to terminals: an escape sequence in the file must not become one on the screen.
        part = "".join(char if char.isprintable() else " " if char == "\t" else "\ufffd" for char in part)
        indent = self.column - 1 - first
        width = min(self.width, max(1, len(part) - indent))
        return f"{self.line:>6} | {part}".rstrip(), f"{'':>6} | {' ' * indent}{'^' * width}"


class ManifestProblems(ManifestError):  # noqa: N818 # several of them, and the reader sees every one
    """The manifest cannot be used; ``message`` shows every problem with its line, ``problems`` lists them."""

    def __init__(self, problems: Iterable[Problem], source: Source) -> None:
        """Put the problems in the order of the file; beyond ``MAX_PROBLEMS`` they are only counted."""
        ordered = sorted(problems, key=lambda problem: (problem.line, problem.column))
        self.problems: tuple[Problem, ...] = tuple(ordered[:MAX_PROBLEMS])
        blocks = [problem.render(source) for problem in self.problems]
        super().__init__("\n\n".join([*blocks, _count(len(ordered), source.name)]))


def _count(total: int, name: str) -> str:
    if total > MAX_PROBLEMS:
        return f"{total} problems in {name}; these are the first {MAX_PROBLEMS}."
    return f"{total} problem{'s' if total > 1 else ''} in {name}."


def shown_path(path: Path) -> str:
    """A path as people write it: ``models.qwen3-8b.aliases[0]``; odd keys stand in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _PLAIN_KEY.fullmatch(part) else shown(part))
    return text


def shown(value: object) -> str:
    """A value from the file, short and harmless to print: text in quotes, whatever else by its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[0]}"


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """The choice that somebody who wrote ``word`` most likely meant, None if none is close."""
    if len(word) > 100:  # nobody mistypes a name at that length, and comparing it would take long
        return None
    plain = {_plain(choice): choice for choice in reversed(choices)}
    found = difflib.get_close_matches(_plain(word), list(plain), n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_").replace(" ", "_")
