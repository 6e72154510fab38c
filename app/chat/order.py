"""Which calls of one round must wait for which: pure. Independent calls run side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.messages import ToolCall
from app.tools.base import ToolProblem, ToolSpec, parse_path

_CHANGES = frozenset({"write", "destructive", "command"})


@dataclass(frozen=True, slots=True)
class _Touch:
    """What a call looks at or changes; a change without a path may be anywhere."""

    paths: tuple[PurePosixPath, ...]
    changes: bool


def predecessors(calls: Sequence[ToolCall], specs: Mapping[str, ToolSpec]) -> list[list[int]]:
    """For each call, the positions of earlier calls that it must wait for.

    Two calls keep the model's order when one of them changes something and both touch the same path, or one path that
    holds the other: written, then read, is what was meant.
    """
    touches = [_touch(call, specs.get(call.name)) for call in calls]
    return [[at for at in range(later) if _meet(touches[at], touches[later])] for later in range(len(calls))]


def _touch(call: ToolCall, spec: ToolSpec | None) -> _Touch:
    if spec is None:
        return _Touch((), changes=False)  # refused before it runs
    return _Touch(tuple(_paths(call, spec)), spec.risk in _CHANGES)


def _paths(call: ToolCall, spec: ToolSpec) -> list[PurePosixPath]:
    try:
        arguments = json.loads(call.arguments or "{}")
        given = [arguments[name] for name in spec.paths if name in arguments]
        return [parse_path(path) for path in given if isinstance(path, str)]
    except (ValueError, TypeError, RecursionError, ToolProblem):
        return []  # refused before it runs, with what is wrong


def _meet(one: _Touch, other: _Touch) -> bool:
    if not (one.changes or other.changes):
        return False
    if (one.changes and not one.paths) or (other.changes and not other.paths):
        return one.changes and other.changes
    return any(a == b or a in b.parents or b in a.parents for a in one.paths for b in other.paths)
