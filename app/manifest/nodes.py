"""YAML text as a tree of values that know where they stand, read strictly and within fixed limits.

Knows nothing of AirLab's settings. The dialect is YAML 1.2's core, less what surprises people or costs without bound:
no tags, no merge keys, no second document, no directives, no duplicate keys, text keys only. Numbers are decimal;
what YAML readers disagree about (``no``, ``on``, ``012``, ``0x1f``, ``1:30``, ``.inf``) stays text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

# The event stream of libyaml in C: it never recurses, so that nesting cannot exhaust the C stack, and it is lazy, so
# that a limit stops the parser as well. Its errors are ruamel's classes.
from _ruamel_yaml import (
    AliasEvent,
    CParser,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)
from ruamel.yaml.error import YAMLError

from app.manifest.problems import Path, Place, Problem, Source, shown

MAX_DEPTH = 32
MAX_NODES = 20_000
"""Keys and values together, an alias counting as much as all that it stands for."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DIRECTIVE = re.compile("(?:\\A|(?<=[\n\r\x85\u2028\u2029]))%[^\n\r]*")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
# At most two digits of exponent, so that no number written as finite becomes infinite.
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][-+]?[0-9]{1,2})?")
_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

_SYNTAX_FIXES = {
    "mapping values are not allowed": "check the indentation; put quotes around a value that contains a colon",
    # libyaml before 0.2 takes no bare `http://a` or `qwen:7b` inside brackets, though YAML does.
    "found unexpected ':'": "between brackets, put quotes around text that contains a colon",
    "could not find expected ':'": "write `key: value`, with a space after the colon",
    "did not find expected key": "check the indentation of this line and of the one above",
    "did not find expected ',' or": "close the bracket, or put a comma between the entries",
    "found unexpected end of stream": "close the quotes",
    "found character that cannot start any token": "put quotes around a value that begins with this character",
}


@dataclass(slots=True)
class Node:
    """One value, where its text starts and ends (offsets in characters), and its parts if it has any."""

    value: Any
    start: int
    end: int
    entries: dict[str, Entry] | None = None
    items: list[Node] | None = None

    def child(self, part: str | int) -> Node | None:
        """The value under a key or at a position; None where there is no such thing."""
        if isinstance(part, str):
            entry = self.entries.get(part) if self.entries is not None else None
            return entry.node if entry else None
        return self.items[part] if self.items is not None and 0 <= part < len(self.items) else None


@dataclass(slots=True)
class Entry:
    """A key, where its text starts and ends, and its value."""

    start: int
    end: int
    node: Node


@dataclass(frozen=True)
class Positions:
    """Looks up where the keys and values of a manifest stand in its text."""

    source: Source
    root: Node

    def has(self, path: Path) -> bool:
        """Whether the file itself says anything under this path."""
        return len(self._walk(path)) == len(path) + 1

    def key(self, path: Path) -> Place:
        """Where a key stands. For an entry of a list the entry, for what the file does not have what it would be in."""
        nodes = self._walk(path)
        if len(nodes) == 1:
            return Place(1, 1, 1)
        entries = nodes[-2].entries
        if entries is None:
            return self.source.place(nodes[-1].start, nodes[-1].end)
        entry = entries[str(path[len(nodes) - 2])]
        return self.source.place(entry.start, entry.end)

    def value(self, path: Path) -> Place:
        """Where a value stands; its key where the value is empty or missing, since there is nothing else to see.

        Within an alias this is where the anchor wrote it.
        """
        node = self._walk(path)[-1]
        if node.start >= node.end or not self.has(path):
            return self.key(path)
        return self.source.place(node.start, node.end)

    def written(self, path: Path) -> Any:
        """The value under a path as the file has it, before anything read a unit into it; None where it has none."""
        return self._walk(path)[-1].value if self.has(path) else None

    def problem(  # the parts of a Problem, all but one by name
        self,
        path: Path,
        message: str,
        *,
        at_key: bool = False,
        allowed: str | None = None,
        fix: str | None = None,
        suggestion: str | None = None,
    ) -> Problem:
        """A problem with what stands under ``path``, pointing at its value, or at its key on request."""
        line, column, width = self.key(path) if at_key else self.value(path)
        return Problem(path, line, column, message, allowed, fix, suggestion, width)

    def _walk(self, path: Path) -> list[Node]:
        nodes = [self.root]
        for part in path:
            child = nodes[-1].child(part)
            if child is None:
                break
            nodes.append(child)
        return nodes


def compose(source: Source) -> tuple[Node | None, list[Problem]]:
    """Read the text as one YAML mapping.

    Returns:
        The tree, and what was wrong on the way. A duplicate or impossible key is left out and reading goes on, so that
        all problems show at once; None if the text is no YAML at all, breaks a limit, or is no mapping.
    """
    composer = _Composer(source)
    try:
        return composer.document(), composer.problems
    except _RefusedError as exc:
        return None, [*composer.problems, exc.problem]


class _RefusedError(Exception):
    """Reading cannot go on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _Composer:
    """Builds the tree from the parser's events. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._count = 0
        self._depth = 0
        self._path: list[str | int] = []
        # None while the anchor's own value is being read: an alias in there would contain itself.
        self._anchors: dict[str, tuple[Node, int] | None] = {}

    def document(self) -> Node:
        self._check_characters()
        # Not lazy in one thing: libyaml compares every %TAG line with all before it, so that a file of nothing else
        # would keep it busy for many seconds before its first event.
        if directive := _DIRECTIVE.search(self.source.text):
            self._refuse(directive.start(), directive.end(), "a line may not begin with %", fix="delete the line")
        self._parser = CParser(self.source.text)
        try:
            return self._only_document()
        except YAMLError as exc:
            self._refuse_syntax(exc)

    def _only_document(self) -> Node:
        self._parser.get_event()  # the stream starts
        event = self._parser.get_event()
        root = self._node(self._parser.get_event()) if type(event) is DocumentStartEvent else Node(None, 0, 0)
        if root.entries is None:
            fix = "write settings as `key: value`; `version: 1` comes first"
            self._refuse(root.start, root.end, "top level must be a mapping", fix=fix)
        self._parser.get_event()  # the document ends
        event = self._parser.get_event()
        if type(event) is DocumentStartEvent:
            mark = event.start_mark.index
            self._refuse(mark, mark + 3, "a second document begins here", fix="keep one; delete the line with ---")
        return root

    def _check_characters(self) -> None:
        found = _UNPRINTABLE.search(self.source.text)
        if found is None:
            return
        code = f"U+{ord(found[0]):04X}"
        name = f"a NUL character ({code})" if found[0] == "\0" else f"the control character {code}"
        fix = "delete it; a file full of them was saved as UTF-16 and has to be saved as UTF-8"
        self._refuse(found.start(), found.end(), f"{name} may not stand in a manifest", fix=fix)

    def _node(self, event: Any) -> Node:
        kind = type(event)
        start = event.start_mark.index
        if kind is AliasEvent:
            return self._alias(event, start)
        before = self._count
        self._grow(1, event)
        if event.tag is not None:
            fix = "delete it; quotes make text of a value"
            self._note(start, event.end_mark.index, f"the tag {shown(event.tag)} is not allowed", fix=fix)
        if event.anchor:
            self._anchors[event.anchor] = None
        if kind is ScalarEvent:
            node = Node(self._scalar(event), start, event.end_mark.index)
        else:
            node = self._collection(event, start)
        if event.anchor:
            self._anchors[event.anchor] = node, self._count - before
        return node

    def _alias(self, event: Any, start: int) -> Node:
        end = event.end_mark.index
        if event.anchor not in self._anchors:
            fix = "write the value out, or mark an earlier one with & and this name"
            self._refuse(start, end, f"nothing above is marked with the anchor {shown(event.anchor)}", fix=fix)
        target = self._anchors[event.anchor]
        if target is None:
            self._refuse(start, end, f"the anchor {shown(event.anchor)} contains itself", fix="write the value out")
        node, size = target
        self._grow(size, event)
        return Node(node.value, start, end, node.entries, node.items)

    def _grow(self, nodes: int, event: Any) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            message = f"the file expands to more than {MAX_NODES} nodes"
            fix = "use fewer aliases, or split what this manifest describes"
            self._refuse(event.start_mark.index, event.end_mark.index, message, fix=fix)

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style:
            if "\0" in text:  # written as an escape; it would cut short whatever C reads next
                self._note(
                    event.start_mark.index, event.end_mark.index, "text may not contain NUL", fix="delete the \\0"
                )
            return text
        return _plain_scalar(text)

    def _collection(self, event: Any, start: int) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = event.start_mark.index
            self._refuse(mark, mark + 1, "nested too deep", allowed=f"{MAX_DEPTH} levels", fix="take levels out")
        node = self._mapping(start) if type(event) is MappingStartEvent else self._sequence(start)
        self._depth -= 1
        return node

    def _sequence(self, start: int) -> Node:
        items: list[Node] = []
        while type(event := self._parser.get_event()) is not SequenceEndEvent:
            self._path.append(len(items))
            items.append(self._node(event))
            self._path.pop()
        return Node([item.value for item in items], start, event.end_mark.index, items=items)

    def _mapping(self, start: int) -> Node:
        entries: dict[str, Entry] = {}
        while type(event := self._parser.get_event()) is not MappingEndEvent:
            key = self._node(event)
            is_text = type(event) is ScalarEvent and isinstance(key.value, str)
            self._path.append(key.value if is_text else shown(key.value))
            if self._key_is_good(key, entries, is_text=is_text):
                entries[key.value] = Entry(key.start, key.end, self._node(self._parser.get_event()))
            else:
                self._node(self._parser.get_event())
            self._path.pop()
        value = {name: entry.node.value for name, entry in entries.items()}
        return Node(value, start, event.end_mark.index, entries)

    def _key_is_good(self, key: Node, entries: dict[str, Entry], *, is_text: bool) -> bool:
        if not is_text:
            fix = f'put it in quotes: "{key.value}"' if isinstance(key.value, int | float) else "write a name"
            self._note(key.start, key.end, "a key must be text", fix=fix)
        elif key.value == "<<":
            self._note(key.start, key.end, "merge keys (<<) are not allowed", fix="write the settings out")
        elif key.value in entries:
            first = self.source.place(entries[key.value].start, 0).line
            line = self.source.place(key.start, 0).line
            message = f"stands twice, on line {first} and again on line {line}"
            self._note(key.start, key.end, message, fix="keep one of the two")
        else:
            return True
        return False

    def _note(self, start: int, end: int, message: str, *, fix: str) -> None:
        line, column, width = self.source.place(start, end)
        self.problems.append(Problem(tuple(self._path), line, column, message, fix=fix, width=width))

    def _refuse(self, start: int, end: int, message: str, *, fix: str, allowed: str | None = None) -> NoReturn:
        line, column, width = self.source.place(start, end)
        raise _RefusedError(Problem((), line, column, message, allowed, fix, width=width))

    def _refuse_syntax(self, exc: YAMLError) -> NoReturn:
        problem, context = getattr(exc, "problem", None) or str(exc), getattr(exc, "context", None)
        at, context_at = getattr(exc, "problem_mark", None), getattr(exc, "context_mark", None)
        text = self.source.text
        offset = at.index if at is not None else 0
        if text[offset : offset + 1] == "\t":
            message = "a tab may not indent a line or begin a value"
            self._refuse(offset, offset + 1, message, fix="indent with spaces")
        if offset >= len(text.rstrip()):
            # The end of the file shows nothing; what was left open there does, or else the last thing written.
            opened = context_at.index if context_at is not None else offset
            offset = min(opened, max(0, len(text.rstrip()) - 1))
        fix = next((fix for words, fix in _SYNTAX_FIXES.items() if words in problem), "check quotes and indentation")
        message = f"this is not valid YAML: {problem}" + (f" ({context})" if context else "")
        self._refuse(offset, offset + 1, message, fix=fix)


def _plain_scalar(text: str) -> Any:
    """The value of a scalar without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "+-.0123456789":
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text
