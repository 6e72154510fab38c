"""The tool ``find_in_files``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from app.tools.base import AbsolutePath, Confinement, ToolProblem, tool
from app.tools.worker import fs, text
from app.tools.worker.walk import Seen, Walk

_MATCHES = 200
_LINE_BYTES = 2048
_FILE_BYTES = 16 * 1024**2
"""What is searched of one file."""


@tool(risk="read")
def find_in_files(
    path: AbsolutePath, search_text: str, file_pattern: str = "*", max_results: int = 100, *, inside: Confinement
) -> dict[str, object]:
    """Find the lines that hold a text, in the text files of a folder and below it.

    path: the absolute path of the folder.
    search_text: the text, exactly as it is written there; no pattern.
    file_pattern: which files to search, by name, such as "*.py".
    max_results: how many lines to list at most.
    """
    needle = _needle(search_text)
    matches = text.name_matcher(file_pattern)
    most = text.capped(max_results, inside.limits.results, _MATCHES)
    with fs.open_folder(inside, path) as folder:
        walk = Walk(inside, folder)
        search = _Search(needle)
        lines = (
            {"path": text.joined(path, seen.below), "line": number, "text": line}
            for seen in walk
            if seen.is_file and matches(seen.entry.name)
            for number, line in search.lines_of(seen)
        )
        found = list(itertools.islice(lines, most + 1))
    return text.listing("matches", found, most, walk.unseen, *search.unseen)


class _Search:
    """Looks for one text in files, and remembers what it could not see."""

    def __init__(self, needle: bytes) -> None:
        self._needle = needle
        self.unseen: dict[str, None] = {}

    def lines_of(self, seen: Seen) -> Iterator[tuple[int, str]]:
        """The lines of one file that hold the text, with their numbers."""
        opened = seen.open()
        if opened is None:
            self.unseen["a file that cannot be opened"] = None
            return
        with os.fdopen(opened, "rb") as file:
            raw = file.read(_FILE_BYTES)
            if file.read(1):
                self.unseen[f"what comes after {text.size_in_words(_FILE_BYTES)} of a file"] = None
        yield from _lines_with(self._needle, raw)


def _needle(search_text: str) -> bytes:
    if not search_text or "\n" in search_text:
        raise ToolProblem("invalid_arguments", "`search_text` must be a part of one line. Search for less.")
    try:
        return search_text.encode()
    except UnicodeEncodeError:
        raise ToolProblem("invalid_arguments", "`search_text` is not valid Unicode. Write it as plain text.") from None


def _lines_with(needle: bytes, raw: bytes) -> Iterator[tuple[int, str]]:
    """The number and the text of each line that holds the needle; none for what is no text."""
    at = raw.find(needle)
    if at < 0 or text.decoded(raw, whole=len(raw) < _FILE_BYTES) is None:
        return
    number, counted = 1, 0
    while at >= 0:
        number += raw.count(b"\n", counted, at)
        counted = at
        begin = raw.rfind(b"\n", 0, at) + 1
        end = raw.find(b"\n", at)
        end = len(raw) if end < 0 else end
        yield number, _shown(raw, begin, at, end)
        at = raw.find(needle, end)


def _shown(raw: bytes, begin: int, at: int, end: int) -> str:
    """A line, or where it is long the part of it that begins a little before the match."""
    start = begin if end - begin <= _LINE_BYTES else max(begin, at - _LINE_BYTES // 4)
    stop = min(end, start + _LINE_BYTES)
    # Where it is cut, a character may be cut too.
    line = raw[start:stop].decode(errors="ignore").rstrip("\r")
    return f"{'[...] ' if start > begin else ''}{line}{' [truncated]' if stop < end else ''}"
