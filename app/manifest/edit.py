"""Changes a manifest's text in place: pieces are put in and cut out at the positions of its values, the rest stays.

Pure, text in and text out; whether the result is a manifest that may be used is for whoever writes it. No change is
handed out before the new text was read again and says exactly what the old one said, with that change: where the text
is written in a way that does not allow for it, the change is refused in words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

from app.errors import ManifestEditError
from app.manifest import emit, splices
from app.manifest.layout import Layout
from app.manifest.load import Loaded
from app.manifest.nodes import MAX_DEPTH, Entry, Node, compose
from app.manifest.problems import Path, Problem, Source, shown_path
from app.manifest.splices import Splice

_STEP = 2
"""Spaces for each level, where the file does not show how its owner likes it."""


def add_entry(loaded: Loaded, path: Path, key: str, value: Any) -> str:
    """The text with ``key: value`` at the end of the mapping under ``path``, which is made where it is missing.

    Raises:
        ManifestEditError: There is no mapping under ``path``, it has that key, or its text cannot be changed so.
    """
    _require_plain_data(value)
    parent = _own(loaded, path)
    if parent is None:
        if not isinstance(path[-1], str):
            _refuse(loaded, path, "is not there")
        return add_entry(loaded, path[:-1], path[-1], {key: value})
    if parent.value is None:
        return set_value(loaded, path, {key: value})
    if parent.entries is None:
        _refuse(loaded, path, "is no mapping")
    if key in parent.entries:
        _refuse(loaded, (*path, key), "is there already")
    layout = Layout(loaded.text)
    if layout.is_flow(parent):
        pieces = splices.into_flow(layout, parent, emit.flow_entry(key, value, quoted=_is_json(loaded)))
    else:
        pieces = splices.into_block(layout, parent, emit.entry_lines(key, value, step=_step(loaded, parent)))
    return _proven(loaded, pieces, path, lambda old: {**old, key: value})


def append_item(loaded: Loaded, path: Path, value: Any) -> str:
    """The text with ``value`` at the end of the list under ``path``, which is made where it is missing.

    Raises:
        ManifestEditError: There is no list under ``path``, or its text cannot be changed so.
    """
    _require_plain_data(value)
    parent = _own(loaded, path)
    if parent is None or parent.value is None:
        return set_value(loaded, path, [value])
    if parent.items is None:
        _refuse(loaded, path, "is no list")
    layout = Layout(loaded.text)
    if layout.is_flow(parent):
        pieces = splices.into_flow(layout, parent, emit.flow(value, quoted=_is_json(loaded)))
    else:
        pieces = splices.into_block(layout, parent, emit.item_lines(value, step=_step(loaded, parent)))
    return _proven(loaded, pieces, path, lambda old: [*old, value])


def remove_entry(loaded: Loaded, path: Path) -> str:
    """The text without the entry of a mapping or list under ``path``, and without the comment that belongs to it.

    Raises:
        ManifestEditError: There is no such entry, or its text cannot be changed so.
    """
    parent = _own(loaded, path[:-1])
    if not path or parent is None or parent.child(path[-1]) is None:
        _refuse(loaded, path, "is not there")
    layout, key = Layout(loaded.text), path[-1]
    index = key if isinstance(key, int) else list(parent.entries or ()).index(key)
    parts = layout.parts(parent)
    if layout.is_flow(parent):
        pieces = splices.out_of_flow(layout, parent, parts, index)
    elif len(parts) > 1:
        pieces = splices.out_of_block(layout, parts, index)
    else:
        owner = _entry(loaded, path[:-1])
        pieces = splices.emptied(layout, owner, parts[0], "[]" if parent.entries is None else "{}")
    return _proven(loaded, pieces, path[:-1], lambda old: _without(old, key))


def set_value(loaded: Loaded, path: Path, value: Any) -> str:
    """The text with ``value`` under ``path``, in the place of what is there, or added where nothing is.

    Raises:
        ManifestEditError: There is nothing that it could be added to, or the text cannot be changed so.
    """
    _require_plain_data(value)
    parent = _own(loaded, path[:-1])
    node = parent.child(path[-1]) if path and parent is not None else None
    if parent is None or node is None:
        if not path or not isinstance(path[-1], str):
            _refuse(loaded, path, "is not there")
        return add_entry(loaded, path[:-1], path[-1], value)
    layout, entry = Layout(loaded.text), _entry(loaded, path)
    if entry is None or layout.is_flow(parent):
        pieces = [splices.replaced(layout, node, emit.flow(value, quoted=_is_json(loaded)))]
    else:
        pieces = splices.below_key(layout, entry, *emit.after_key(value, step=_step(loaded, parent)))
    return _proven(loaded, pieces, path, lambda _old: value)


# What the text allows.


def _own(loaded: Loaded, path: Path) -> Node | None:
    """The value under a path, which nothing else shares; None where the file has none."""
    layout, node = Layout(loaded.text), loaded.positions.root
    for depth in range(len(path) + 1):
        if layout.is_shared(node):
            where = shown_path(path[:depth]) or "what stands at the top"
            _refuse(
                loaded,
                path,
                f"cannot be changed here: {where} has an anchor (&) or is an alias (*), so that a change would show "
                "in other places, too; write it out without them",
            )
        if depth == len(path):
            break
        child = node.child(path[depth])
        if child is None:
            return None
        node = child
    return node


def _entry(loaded: Loaded, path: Path) -> Entry | None:
    """The key that a path ends with; None for the top and for an item of a list."""
    node = loaded.positions.root
    for part in path[:-1]:
        child = node.child(part)
        if child is None:
            return None
        node = child
    return node.entries.get(str(path[-1])) if path and node.entries is not None else None


def _step(loaded: Loaded, near: Node) -> int:
    """Spaces for each level, as the entries near the place have them, or else the file."""
    layout = Layout(loaded.text)
    for node in (near, loaded.positions.root):
        for entry in (node.entries or {}).values():
            child = entry.node
            if child.entries and not layout.is_shared(child) and not layout.is_flow(child):
                step = layout.column(child.start) - layout.column(entry.start)
                if step > 0:
                    return step
    return _STEP


def _is_json(loaded: Loaded) -> bool:
    """Whether the whole file is written as JSON, which new text must not break."""
    layout, root = Layout(loaded.text), loaded.positions.root
    return layout.is_flow(root) and loaded.text[layout.skip(root.start + 1)] == '"'


def _require_plain_data(value: Any, depth: int = 1) -> None:
    """Raises ManifestEditError unless a manifest can say this at all."""
    if depth > MAX_DEPTH:
        raise ManifestEditError(f"the value is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, part in value.items():
            _require_plain_data(part, depth + 1)
            if not isinstance(key, str):
                raise ManifestEditError(f"a key must be text, not {key!r}")
    elif isinstance(value, list | tuple):
        for part in value:
            _require_plain_data(part, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ManifestEditError(f"{value} is no number for a manifest")
    elif not isinstance(value, str | int | float | None):
        raise ManifestEditError(f"a manifest cannot hold a {type(value).__name__}")


def _refuse(loaded: Loaded, path: Path, what: str) -> NoReturn:
    raise ManifestEditError(f"{loaded.positions.source.name}: {shown_path(path) or 'the top level'} {what}")


def _proven(loaded: Loaded, pieces: list[Splice], path: Path, change: Callable[[Any], Any]) -> str:
    """The text with the splices, once it is certain that it says what it should and nothing else."""
    text, wanted = loaded.text, _changed(loaded.positions.root.value, path, change)
    for piece in reversed(pieces):
        text = text[: piece.start] + piece.text + text[piece.end :]
    problems: list[Problem] = []
    # Text of several lines may need the line break that the file does not end with.
    for candidate in (text, text + Layout(text).line_break):
        root, problems = compose(Source(loaded.positions.source.name, candidate))
        if root is not None and not problems and _same(root.value, wanted):
            return candidate
    because = f" ({problems[0].message})" if problems else ""
    _refuse(loaded, path, f"cannot be changed so without changing more than this{because}; edit the file by hand")


def _changed(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """A copy of the value with a change under ``path``; what aliases share is not shared in it."""
    if not path:
        return change(value)
    copy = value.copy()
    copy[path[0]] = _changed(copy[path[0]], path[1:], change)
    return copy


def _without(value: Any, key: str | int) -> Any:
    copy = value.copy()
    del copy[key]
    return copy


def _same(one: Any, other: Any) -> bool:
    # As JSON, since Python takes 1, 1.0 and True for the same, and dicts in any order.
    return json.dumps(one) == json.dumps(other)
