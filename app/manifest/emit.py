"""Values as YAML text, as a person would write them into a manifest, and never to be read as anything else.

Pure; knows nothing of what stands around the place that the text is for. Quotes are put wherever our reader, another
reader of YAML or a person could take the text for something else.
"""

from __future__ import annotations

import re
from typing import Any

_LINE_CHARS = 80
"""A list or mapping of plain values that is no longer stays on one line."""

_BEGINS_WELL = re.compile(r"[\w/]")
# Whatever YAML 1.1, 1.2 or a person may take for a number, a time or a date: digits, and the letters such things have.
_LIKE_A_NUMBER = re.compile(r"[-+.]?[0-9][0-9a-fA-F_.,:xXoOtTzZ +-]*")
_LIKE_A_WORD = frozenset({"null", "none", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"})
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


def entry_lines(key: str, value: Any, *, step: int) -> list[str]:
    """``key: value`` as block YAML that begins in column 0, with ``step`` spaces for each level below."""
    head, rest = after_key(value, step=step)
    return [f"{scalar(key)}: {head}" if head else f"{scalar(key)}:", *rest]


def item_lines(value: Any, *, step: int) -> list[str]:
    """``- value`` as block YAML that begins in column 0; a short mapping stays on its line."""
    text = flow(value)
    if _is_literal(value):
        head, rest = after_key(value, step=2)
        return [f"- {head}", *rest]
    if not _has_parts(value) or (_is_flat(value) and len(text) <= _LINE_CHARS):
        return [f"- {text}"]
    first, *rest = _lines(value, step)
    return [f"- {first}", *_indented(rest, 2)]


def after_key(value: Any, *, step: int) -> tuple[str, list[str]]:
    """What follows the colon on the key's own line, and the lines below it, indented against the key."""
    if _is_literal(value):
        sign = "|" if value.endswith("\n") else "|-"
        return sign, _indented(value.removesuffix("\n").split("\n"), step)
    text = scalar(value) if isinstance(value, str) else flow(value)
    if not _has_parts(value) or (not isinstance(value, dict) and _is_flat(value) and len(text) <= _LINE_CHARS):
        return text, []
    return "", _indented(_lines(value, step), step)


def flow_entry(key: str, value: Any, *, quoted: bool) -> str:
    """``key: value`` for a place between braces."""
    return f"{scalar(key, in_flow=True, quoted=quoted)}: {flow(value, quoted=quoted)}"


def flow(value: Any, *, quoted: bool = False) -> str:
    """A value on one line, with brackets where it has parts; ``quoted``: as JSON has it, all text in quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(flow_entry(key, part, quoted=quoted) for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(part, quoted=quoted) for part in value) + "]"
    return scalar(value, in_flow=True, quoted=quoted)


def scalar(value: str | float | bool | None, *, in_flow: bool = False, quoted: bool = False) -> str:
    """A value without parts on one line; text in quotes where it needs them, or where ``quoted`` asks for them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    if not quoted and _is_plain(value, in_flow=in_flow):
        return value
    return '"' + "".join(_ESCAPES.get(char) or (char if char.isprintable() else _escaped(char)) for char in value) + '"'


def _is_plain(text: str, *, in_flow: bool) -> bool:
    if not _BEGINS_WELL.match(text) or text != text.strip() or not text.isprintable():
        return False
    if text.casefold() in _LIKE_A_WORD or _LIKE_A_NUMBER.fullmatch(text):
        return False
    # libyaml takes neither `:` nor `?` between brackets, though YAML does.
    bad = (",", "[", "]", "{", "}", ":", "?", " #") if in_flow else (": ", " #")
    return not text.endswith(":") and not any(part in text for part in bad)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_literal(value: Any) -> bool:
    """Whether it is text of several lines that can stand as it is below a ``|``.

    Not with a space at its beginning, which would be taken for indentation, or more than one line break at its end.
    """
    if not isinstance(value, str) or "\n" not in value.rstrip("\n") or value.endswith("\n\n"):
        return False
    lines = value.removesuffix("\n").split("\n")
    return lines[0][:1] not in ("", " ") and all(not line or (line.isprintable() and line.strip()) for line in lines)


def _has_parts(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and bool(value)


def _is_flat(value: Any) -> bool:
    """Whether its parts have no parts themselves, and no text of several lines."""
    parts = value.values() if isinstance(value, dict) else value
    return not any(_has_parts(part) or _is_literal(part) for part in parts)


def _lines(value: Any, step: int) -> list[str]:
    """The lines of a mapping or list that has parts, beginning in column 0."""
    if isinstance(value, dict):
        return [line for key, part in value.items() for line in entry_lines(key, part, step=step)]
    return [line for part in value for line in item_lines(part, step=step)]


def _indented(lines: list[str], columns: int) -> list[str]:
    return [" " * columns + line if line else "" for line in lines]
