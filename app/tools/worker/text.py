"""Turns what lies on disk into text that an answer can hold: names, sizes, contents. Pure.

An answer has a limit in bytes, and written as JSON one character may take six of them.
"""

from __future__ import annotations

import codecs
import fnmatch
import itertools
import json
import os
from collections.abc import Callable, Sequence

from app.tools.base import ANSWER_BYTES, NAME_BYTES, ToolProblem, parse_path

ROOM_BYTES = ANSWER_BYTES - 4096
"""What a list or a text may take of an answer; the rest is for the words around it."""

_LOOKED_AT_FOR_NUL_BYTES = 8192


def has_nul(raw: bytes) -> bool:
    """True for what begins as no text does: a NUL in the first 8 KiB."""
    return b"\0" in raw[:_LOOKED_AT_FOR_NUL_BYTES]


def decoded(raw: bytes, *, whole: bool) -> str | None:
    """The text of a file, or of the beginning of one; None when it is not UTF-8 text."""
    if has_nul(raw):
        return None
    try:
        # Where it is cut, a character may be cut too: that is not the file's fault.
        return codecs.getincrementaldecoder("utf-8")().decode(raw, final=whole)
    except UnicodeDecodeError:
        return None


def shown_name(name: str) -> str:
    """A file's name as it can be shown: it need not be valid UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def size_in_words(size_bytes: int) -> str:
    """1610612736 as ``1.5 GiB``; exact below 1 KiB."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    units = (("KiB", 1024), ("MiB", 1024**2), ("GiB", 1024**3))
    # 1048575 is 1.0 MiB and not 1024.0 KiB: what counts is how it prints.
    name, unit = next((one for one in units if round(size_bytes / one[1], 1) < 1024), ("TiB", 1024**4))
    return f"{size_bytes / unit:.1f} {name}"


def how_many_fit(items: Sequence[object]) -> int:
    """How many of the first items an answer has room for."""
    sizes = itertools.accumulate(json_bytes(item) + 2 for item in items)
    return sum(1 for _ in itertools.takewhile(lambda size: size <= ROOM_BYTES, sizes))


def listing(name: str, items: Sequence[object], most: int, *unseen: str | None) -> dict[str, object]:
    """A result that lists ``items``, at most ``most`` and no more than fit, and says when it is not all there is.

    Args:
        name: What the items are called.
        items: One more than ``most`` says that there are more.
        most: How many to list.
        unseen: What was not looked at, in words.
    """
    shown = items[: min(most, how_many_fit(items))]
    result: dict[str, object] = {name: shown, "count": len(shown)}
    if len(shown) < len(items):
        result["note"] = f"truncated: the first {len(shown)}, there are more"
    return result | partial(*unseen)


def partial(*unseen: str | None) -> dict[str, object]:
    """What marks a result for which something was not looked at; nothing where all was."""
    left_out = ", ".join(filter(None, unseen))
    return {"partial": True, "left_out": left_out} if left_out else {}


def joined(path: str, below: str) -> str:
    """The path of what lies ``below`` the folder that a model called ``path``, as it can be shown."""
    return f"{str(parse_path(path)).rstrip('/')}/{shown_name(below)}"


def name_matcher(pattern: str) -> Callable[[str], bool]:
    """What says whether a file's name fits a pattern of ``*``, ``?`` and ``[...]``, case counting.

    Raises:
        ToolProblem: ``invalid_arguments``: it is no pattern for a name.
    """
    # "**/*.py" is how models write "*.py, in every folder".
    names = pattern.removeprefix("**/")
    if not names or "/" in names or len(names.encode(errors="replace")) > NAME_BYTES:
        raise ToolProblem(
            "invalid_arguments",
            f'{pattern[:80]!r} is no pattern for the name of a file. Write one like "*.txt"; `path` says the folder.',
        )
    return lambda name: fnmatch.fnmatchcase(name, names)


def json_bytes(value: object) -> int:
    """What a value takes as JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def capped(most: int, *caps: int) -> int:
    """How many results to give, where a model may ask for fewer than the caps.

    Raises:
        ToolProblem: ``invalid_arguments``: it asked for less than one.
    """
    if most < 1:
        raise ToolProblem("invalid_arguments", "`max_results` must be 1 or more. Leave it out to get the usual number.")
    return min(most, *caps)
