"""Edits a manifest as hurried people and broken editors do: drop, swap, retype, truncate, duplicate, indent.

How many examples a property test takes is ``EXAMPLES``; AIRLAB_FUZZ_EXAMPLES sets another number for long runs.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from hypothesis import strategies as st

from app.manifest.nodes import Node, compose
from app.manifest.problems import Source

EXAMPLES = int(os.environ.get("AIRLAB_FUZZ_EXAMPLES", "300"))
RICH = Path(__file__).with_name("rich.yaml").read_text()
SHIPPED = (Path(__file__).parents[2] / "airlab.yaml").read_text()

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_WORD = re.compile(r"[\w.~-]+")
_RETYPED = (
    *("", "~", "true", "no", "0", "-1", "1e9", "9" * 25, "3.5", ".inf", "012", "8k", "15 parsecs", "2GiB", "1ms"),
    *("text", '"quoted"', "''", "'", '"', "[]", "{}", "[a, 1]", "[[]]", "{a: b}", "any", "all", "native", "small"),
    *("&a x", "*a", "!!int 3", "<<: {}", "|\n      text", "- x", "a: b", "é😀\u2028", "x" * 300, "# gone", "\t", "?"),
)
_BETWEEN = ("", " ", ", ", ": ", "\n", "\n  ", "# ")

Span = tuple[int, int]


@lru_cache(maxsize=64)
def spans(text: str) -> tuple[Span, ...]:
    """Where keys and values stand; where words stand in a text that is no YAML any more."""
    root, _ = compose(Source("", text))
    found = list(_of(root)) if root is not None else [match.span() for match in _WORD.finditer(text)]
    return tuple(span for span in found if span[0] < span[1]) or ((0, len(text)),)


def _of(node: Node) -> list[Span]:
    found = [(node.start, node.end)]
    for entry in (node.entries or {}).values():
        found += [(entry.start, entry.end), *_of(entry.node)]
    for item in node.items or []:
        found += _of(item)
    return found


def _retype(draw: st.DrawFn, text: str) -> str:
    start, end = draw(st.sampled_from(spans(text)))
    return text[:start] + draw(st.sampled_from(_RETYPED)) + text[end:]


def _mistype(draw: st.DrawFn, text: str) -> str:
    """One character too few."""
    start, end = draw(st.sampled_from(spans(text)))
    at = draw(st.integers(start, max(start, end - 1)))
    return text[:at] + text[at + 1 :]


def _swap(draw: st.DrawFn, text: str) -> str:
    (a, b), (c, d) = sorted(draw(st.tuples(st.sampled_from(spans(text)), st.sampled_from(spans(text)))))
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:] if b <= c else text


def _repeat(draw: st.DrawFn, text: str) -> str:
    start, end = draw(st.sampled_from(spans(text)))
    return text[:end] + draw(st.sampled_from(_BETWEEN)) + text[start:end] + text[end:]


def _truncate(draw: st.DrawFn, text: str) -> str:
    return text[: draw(st.integers(0, len(text)))]


def _drop_lines(draw: st.DrawFn, text: str) -> str:
    lines, start, end = _some_lines(draw, text)
    return "".join(lines[:start] + lines[end:])


def _repeat_lines(draw: st.DrawFn, text: str) -> str:
    lines, start, end = _some_lines(draw, text)
    at = draw(st.integers(0, len(lines)))
    return "".join(lines[:at] + lines[start:end] + lines[at:])


def _move_lines(draw: st.DrawFn, text: str) -> str:
    lines, start, end = _some_lines(draw, text)
    rest = lines[:start] + lines[end:]
    at = draw(st.integers(0, len(rest)))
    return "".join(rest[:at] + lines[start:end] + rest[at:])


def _indent_lines(draw: st.DrawFn, text: str) -> str:
    lines, start, end = _some_lines(draw, text)
    less, more = (
        draw(st.sampled_from([0, 0, 1, 2, 4])),
        draw(st.sampled_from(["", " ", "  ", "    ", "\t", "- ", "# "])),
    )
    moved = [more + line[min(less, len(line) - 1) :] for line in lines[start:end]]
    return "".join(lines[:start] + moved + lines[end:])


def _other_line_ends(_draw: st.DrawFn, text: str) -> str:
    return re.sub(r"(?<!\r)\n", "\r\n", text)


def _some_lines(draw: st.DrawFn, text: str) -> tuple[list[str], int, int]:
    lines = _LINE.findall(text)
    start = draw(st.integers(0, max(0, len(lines) - 1)))
    return lines, start, min(len(lines), start + draw(st.integers(1, 4)))


_EDITS = (
    *(_retype, _mistype, _swap, _repeat, _truncate, _other_line_ends),
    *(_drop_lines, _repeat_lines, _move_lines, _indent_lines),
)


@st.composite
def clumsy_edits(draw: st.DrawFn, texts: tuple[str, ...] = (SHIPPED, RICH)) -> str:
    """One of the texts after one to four edits."""
    text = draw(st.sampled_from(texts))
    for edit in draw(st.lists(st.sampled_from(_EDITS), min_size=1, max_size=4)):
        text = edit(draw, text)
    return text
