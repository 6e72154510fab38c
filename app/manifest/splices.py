"""Where in a manifest's text a change cuts something out or puts something in, in its owner's way of writing.

Pure; whether the text then says what it should is for ``edit.py`` to prove. Splices come in the order of the text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from app.manifest.layout import Layout, Part
from app.manifest.nodes import Entry, Node

_ALIGNED = re.compile(" {2,}(?=#)")


class Splice(NamedTuple):
    """What to put in the place of a stretch of the text."""

    start: int
    end: int
    text: str


def into_block(layout: Layout, node: Node, lines: list[str]) -> list[Splice]:
    """New lines below the last entry, set apart from it as the last one is from the one before it."""
    parts = layout.parts(node)
    column = layout.column(parts[0].start)
    new = [" " * column + line if line else "" for line in lines]
    if len(parts) > 1 and layout.is_blank(layout.first_line(parts[-1].start) - 1):
        new.insert(0, "")
    last, eol = layout.last_line(parts[-1]), layout.line_break
    at = layout.start_of(last + 1)
    if at == layout.end_of(last):  # the end of a text that ends without a line break, and shall go on doing so
        return [Splice(at, at, "".join(eol + line for line in new))]
    return [Splice(at, at, "".join(line + eol for line in new))]


def out_of_block(layout: Layout, parts: list[Part], index: int) -> list[Splice]:
    """Without the lines of one entry among several; what separated it from its neighbours separates those now."""
    part, is_last = parts[index], index == len(parts) - 1
    if not layout.begins_line(part.start) and not is_last:  # `- a: 1`: the first setting follows its dash
        return [Splice(part.start, parts[index + 1].start, "")]
    first, past = layout.first_line(part.start), layout.last_line(part) + 1
    above, below = first, past
    while layout.is_blank(above - 1):
        above -= 1
    while layout.is_blank(below):
        below += 1
    if above < first and (below > past or is_last):
        first = above
    elif index == 0:
        past = below
    return [_cut(layout, first, past)]


def emptied(layout: Layout, owner: Entry | None, part: Part, nothing: str) -> list[Splice]:
    """Without the only entry of a mapping or list, which then has to say that it is empty."""
    if owner is None:
        return [Splice(part.start, part.end, nothing)]
    colon = layout.skip(owner.end) + 1
    return [
        Splice(colon, colon, f" {nothing}"),
        _cut(layout, layout.first_line(part.start), layout.last_line(part) + 1),
    ]


def _cut(layout: Layout, first: int, past: int) -> Splice:
    """Without the lines from ``first`` up to ``past``; a text that ends without a line break goes on doing so."""
    start, end = layout.start_of(first), layout.start_of(past)
    if first and end == layout.end_of(past - 1):
        start = layout.end_of(first - 1)
    return Splice(start, end, "")


def replaced(layout: Layout, node: Node, text: str) -> Splice:
    """Another text on one line in the place of a value, or in the place that a value would have."""
    end = layout.end(node)
    if node.start < end:
        # A comment that was moved right to stand below others stays in its column, as far as there is room.
        gap = _ALIGNED.match(layout.text, end)
        spaces = max(2, gap.end() - node.start - len(text)) if gap else 0
        return Splice(node.start, gap.end() if gap else end, text + " " * spaces)
    between = " " if layout.text[node.start - 1] in ":-" else ": "
    return Splice(node.start, node.start, between + text)


def below_key(layout: Layout, entry: Entry, head: str, rest: list[str]) -> list[Splice]:
    """Another value for a key of a block mapping; the comment on the key's line stays, those inside a block go."""
    node, text = entry.node, layout.text
    is_block = layout.is_block_scalar(node) or (bool(node.entries or node.items) and not layout.is_flow(node))
    if not rest and not is_block:
        return [replaced(layout, node, head)]
    colon = layout.skip(entry.end) + 1
    tail_from = colon if is_block else max(colon, layout.end(node))
    if layout.is_block_scalar(node):
        tail_from = node.start + len(text[node.start : layout.end_of(layout.line_of(node.start))].split(" ")[0])
    tail = text[tail_from : layout.end_of(layout.line_of(tail_from))].rstrip()
    indent = layout.line_break + " " * layout.column(entry.start)
    new = (f" {head}" if head else "") + tail + "".join(indent + line if line else layout.line_break for line in rest)
    last = layout.last_line(Part(entry.start, max(colon, layout.end(node))))
    return [Splice(colon, layout.end_of(last), new)]


def into_flow(layout: Layout, node: Node, item: str) -> list[Splice]:
    """One more item, on a line of its own if the last one has one."""
    parts, close = layout.parts(node), node.end - 1
    if not parts:
        inside = layout.text[node.start + 1 : close]
        return [Splice(node.start + 1, node.start + 1, item if inside.strip(" ") else inside + item)]
    last, comma = parts[-1], layout.skip(parts[-1].end)
    has_comma = layout.text[comma] == ","
    at = comma + 1 if has_comma else last.end
    line = layout.line_of(at)
    if not (layout.begins_line(last.start) and layout.end_of(line) < close):
        return [Splice(at, at, f" {item}," if has_comma else f", {item}")]
    indent = layout.line_break + " " * layout.column(last.start)
    below = Splice(layout.end_of(line), layout.end_of(line), f"{indent}{item}{',' if has_comma else ''}")
    return [below] if has_comma else [Splice(at, at, ","), below]


def out_of_flow(layout: Layout, node: Node, parts: list[Part], index: int) -> list[Splice]:
    """Without one item and the comma that goes with it."""
    text, part, is_last = layout.text, parts[index], index == len(parts) - 1
    comma = layout.skip(part.end)
    has_comma = text[comma] == ","
    stop = comma + 1 if has_comma else part.end
    comma_before = layout.skip(parts[index - 1].end) if is_last and index and not has_comma else None
    if layout.begins_line(part.start) and layout.ends_line(stop) and layout.end_of(layout.line_of(stop)) < node.end - 1:
        splices = [_cut(layout, layout.first_line(part.start), layout.line_of(stop) + 1)]
        return splices if comma_before is None else [Splice(comma_before, comma_before + 1, ""), *splices]
    if not is_last:
        rest = text[stop : layout.end_of(layout.line_of(stop))]
        return [Splice(part.start, stop if layout.ends_line(stop) else stop + len(rest) - len(rest.lstrip(" ")), "")]
    if comma_before is None:
        return [Splice(len(text[: part.start].rstrip(" ")), stop, "")]
    if "#" not in text[comma_before : part.start]:
        return [Splice(comma_before, part.end, "")]
    return [Splice(comma_before, comma_before + 1, ""), Splice(part.start, part.end, "")]
