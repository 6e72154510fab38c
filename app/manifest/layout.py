"""How a YAML text is laid out beyond what the tree of its values knows: lines, comments, dashes, where values end.

Pure; reads positions, changes nothing. Columns and lines count from 0 here, offsets count characters.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

from app.manifest.nodes import Node

_BREAK = re.compile(r"\r\n|\n|\r")
_GAP = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_ANCHOR = re.compile(r"&[^\s,\[\]{}]+\s*")
_COMMENT = re.compile(r" *(?=#)")
# `# name:` or `# name: {...}`: an entry that somebody switched off, and no remark on the entry below.
_SWITCHED_OFF = re.compile(r" *# *[\w.\"-]+:(?: *| +[{\[&#].*)")


class Part(NamedTuple):
    """One entry of a mapping or list: from its key, its dash or its value to the end of what is written for it."""

    start: int
    end: int


class Layout:
    """Answers where things stand in one text."""

    def __init__(self, text: str) -> None:
        """Find its lines."""
        self.text = text
        self._starts = [0, *(found.end() for found in _BREAK.finditer(text))]
        if len(self._starts) > 1 and self._starts[-1] == len(text):
            self._starts.pop()
        first = _BREAK.search(text)
        self.line_break = first[0] if first else "\n"

    # Lines.

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self._starts)

    def line_of(self, offset: int) -> int:
        """The line that holds a character."""
        return bisect_right(self._starts, offset) - 1

    def start_of(self, line: int) -> int:
        """Where a line begins; the end of the text for the line after the last."""
        return self._starts[line] if line < len(self._starts) else len(self.text)

    def end_of(self, line: int) -> int:
        """Where a line ends, before its line break."""
        start, end = self.start_of(line), self.start_of(line + 1)
        return start + len(self.text[start:end].rstrip("\r\n"))

    def column(self, offset: int) -> int:
        """How far from the beginning of its line a character stands."""
        return offset - self.start_of(self.line_of(offset))

    def is_blank(self, line: int) -> bool:
        """Whether a line is there and shows nothing."""
        return 0 <= line < self.lines and not self.text[self.start_of(line) : self.end_of(line)].strip()

    def begins_line(self, offset: int) -> bool:
        """Whether nothing but indentation stands before a character on its line."""
        return not self.text[self.start_of(self.line_of(offset)) : offset].strip(" ")

    def ends_line(self, offset: int) -> bool:
        """Whether nothing but a comment stands from here to the end of the line."""
        rest = self.text[offset : self.end_of(self.line_of(offset))].strip(" \t")
        return not rest or rest.startswith("#")

    # What belongs together.

    def first_line(self, start: int) -> int:
        """The first line of the entry that begins here, its comment included.

        That is the comment right above it, in its own column, unless entries are switched off in there, or the file
        begins with it.
        """
        line = own = self.line_of(start)
        while self._comment_column(line - 1) == self.column(start):
            if _SWITCHED_OFF.fullmatch(self.text, self.start_of(line - 1), self.end_of(line - 1)):
                return own
            line -= 1
        return line or own

    def last_line(self, part: Part) -> int:
        """The last line of an entry, comments that are indented deeper than it included."""
        last = line = self.line_of(max(part.start, part.end - 1))
        column = self.column(part.start)
        while (line := line + 1) < self.lines:
            if self._comment_column(line) > column:
                last = line
            elif not self.is_blank(line):
                break
        return last

    def _comment_column(self, line: int) -> int:
        """Where the comment stands on a line that has nothing else; -1 on any other line."""
        found = _COMMENT.match(self.text, self.start_of(line)) if 0 <= line < self.lines else None
        return found.end() - found.start() if found else -1

    # Values.

    def skip(self, offset: int) -> int:
        """The next character that is neither space, line break nor comment."""
        found = _GAP.match(self.text, offset)
        return found.end() if found else offset

    def is_flow(self, node: Node) -> bool:
        """Whether a mapping or list is written with brackets."""
        return self.text[self._past_anchor(node) : node.end].startswith(("{", "["))

    def is_shared(self, node: Node) -> bool:
        """Whether a value is marked for aliases to repeat, or is one."""
        return node.start < node.end and self.text[node.start] in "*&"

    def is_block_scalar(self, node: Node) -> bool:
        """Whether a value is text below a ``|`` or ``>``."""
        return node.entries is None and self.text[self._past_anchor(node) : node.end].startswith(("|", ">"))

    def end(self, node: Node) -> int:
        """Where a value's last character ends; the tree counts what follows a block to it, up to the next key."""
        if node.start >= node.end or self.text[node.start] == "*" or self.is_flow(node):
            return node.end
        if node.entries:
            last = next(reversed(node.entries.values()))
            return max(last.end, self.end(last.node))
        if node.items:
            return self.end(node.items[-1])
        if self.is_block_scalar(node) and "+" not in self.text[node.start : self.end_of(self.line_of(node.start))]:
            return node.start + len(self.text[node.start : node.end].rstrip(" \t\r\n"))
        return node.end

    def parts(self, node: Node) -> list[Part]:
        """The entries of a mapping or list, in order; with their dashes, where it is a list that has them."""
        if node.entries is not None:
            return [Part(entry.start, max(entry.end, self.end(entry.node))) for entry in node.entries.values()]
        items = node.items or []
        if self.is_flow(node):
            return [Part(item.start, self.end(item)) for item in items]
        found: list[Part] = []
        for item in items:
            dash = self.skip(found[-1].end) if found else node.start
            found.append(Part(dash, max(dash + 1, self.end(item))))
        return found

    def _past_anchor(self, node: Node) -> int:
        found = _ANCHOR.match(self.text, node.start, node.end)
        return found.end() if found else node.start
