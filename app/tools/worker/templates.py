"""Fills a model's arguments into what the manifest wrote, so that they stay arguments. Pure.

``{name}`` is a placeholder, ``{{`` and ``}}`` are braces. What a value can never do: end the part of a URL that it
stands in, lead out of its folder, become a second argument of a program, or an option of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from app.tools.base import ToolProblem

_PART = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_-]*)\}|[{}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OPTIONS_END = "--"

Values = Mapping[str, Any]


def names_in(template: str) -> list[str]:
    """The placeholders of a template, in their order.

    Raises:
        ValueError: A brace stands alone.
    """
    names = []
    for part in _PART.finditer(template):
        if part[0] in ("{", "}"):
            raise ValueError(f"holds a single {part[0]}; write {{name}} for an argument, {part[0] * 2} for a brace")
        if part[1]:
            names.append(part[1])
    return names


def names_within(value: Any) -> Iterator[str]:
    """The placeholders of every text in a structure of mappings and lists. Raises as ``names_in`` does."""
    if isinstance(value, str):
        yield from names_in(value)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from names_within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names_within(inner)


def fill_path(template: str, values: Values) -> str:
    """A URL's path: as many segments as the template has, whatever the values are.

    Raises:
        ToolProblem: ``invalid_arguments``: a value would climb out of its folder, or leave a segment empty.
    """
    segments = []
    for segment in template.split("/"):
        named = names_in(segment)
        for name in named:
            # Servers and proxies decode, and then take dots and slashes for what they look like.
            parts = re.split(r"[/\\]", _text(name, values))
            if any(part.partition(";")[0] in (".", "..") for part in parts):
                raise _refusal(name, 'is "." or "..", or holds it between slashes. Leave it out')
        filled = _filled(segment, values, lambda text: quote(text, safe=""))
        if named and filled in ("", ".", ".."):
            raise _refusal(named[0], "leaves nothing that could be asked for. Give another")
        segments.append(filled)
    return "/".join(segments)


def fill_query(template: str, more: Values, values: Values) -> str:
    """A URL's query: the template's, and a pair for each of ``more`` whose arguments are there.

    Raises:
        ToolProblem: ``invalid_arguments``.
    """
    pairs = [_filled(template, values, lambda text: quote(text, safe=""))] if template else []
    for name, value in more.items():
        if not (isinstance(value, str) and any(each not in values for each in names_in(value))):
            pairs.append(f"{quote(name, safe='')}={quote(_filled(_as_text(value), values, str), safe='')}")
    return "&".join(pairs)


def fill_json(value: Any, values: Values) -> Any:
    """A structure with its texts filled: one that is nothing but a placeholder becomes the value, type and all.

    Entries of mappings and lists whose arguments are missing are left out.

    Raises:
        ToolProblem: ``invalid_arguments``.
    """
    if isinstance(value, Mapping):
        return {key: fill_json(inner, values) for key, inner in value.items() if _is_there(inner, values)}
    if isinstance(value, list):
        return [fill_json(inner, values) for inner in value if _is_there(inner, values)]
    if not isinstance(value, str):
        return value
    names = names_in(value)
    return values[names[0]] if value == "{" + "".join(names) + "}" else _filled(value, values, str)


def fill_argv(template: Sequence[str], values: Values, *, free: Collection[str] = ()) -> list[str]:
    """A program's arguments: as many as the template has, less those that are nothing but a missing placeholder.

    Args:
        template: The program and its arguments.
        values: By the names of placeholders.
        free: Placeholders that may become options.

    Raises:
        ToolProblem: ``invalid_arguments``: a value would be read as an option, or holds a NUL.
    """
    argv: list[str] = []
    for index, part in enumerate(template):
        names = names_in(part)
        if part == "{" + "".join(names) + "}" and names[0] not in values:
            continue
        filled = _filled(part, values, str, controls=True)
        leads = bool(names) and part.startswith("{") and not part.startswith("{{")
        if leads and filled.startswith("-") and _OPTIONS_END not in template[:index] and not set(names) <= set(free):
            raise _refusal(names[0], 'begins with "-", which the program would take for an option. Give another')
        argv.append(filled)
    return argv


def select(answer: Any, place: str) -> Any:
    """What stands at a place of a JSON answer: ``current.0.temp_C``, or ``/current/0/temp_C`` (RFC 6901).

    Raises:
        ToolProblem: ``not_in_answer``, with what there is instead.
    """
    if place.startswith("/"):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in place[1:].split("/")]
    else:
        parts = place.split(".")
    for part in parts:
        if isinstance(answer, dict) and part in answer:
            answer = answer[part]
        elif isinstance(answer, list) and part.isascii() and part.isdecimal() and int(part) < len(answer):
            answer = answer[int(part)]
        else:
            there = ", ".join(list(answer)[:10]) if isinstance(answer, dict) else type(answer).__name__
            raise ToolProblem("not_in_answer", f"The answer has no {part!r} (of {place}); it has: {there:.300}.")
    return answer


def cut(found: Any, most_bytes: int, *, whole: bool = True) -> dict[str, Any]:
    """An answer's content, marked where not all of it is there; a structure that is too long becomes text."""
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    raw = text.encode(errors="replace")
    if len(raw) <= most_bytes:
        return {"content": found} if whole else {"content": found, "truncated": True}
    return {"content": raw[:most_bytes].decode(errors="ignore"), "truncated": True}


def _is_there(value: Any, values: Values) -> bool:
    return not isinstance(value, str) or all(name in values for name in names_in(value))


def _filled(template: str, values: Values, escape: Any, *, controls: bool = False) -> str:
    def put(part: re.Match[str]) -> str:
        if part[1] is None:
            return part[0][0]
        text = _text(part[1], values)
        if "\0" in text or (not controls and _CONTROL.search(text)):
            raise _refusal(part[1], "holds a control character. Leave it out")
        return str(escape(text))

    return _PART.sub(put, template)


def _text(name: str, values: Values) -> str:
    if name not in values:
        raise ToolProblem("invalid_arguments", f"`{name}` is missing. Give it.")
    text = _as_text(values[name])
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refusal(name, "holds half a character. Write it as plain text") from None
    return text


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _refusal(name: str, why: str) -> ToolProblem:
    return ToolProblem("invalid_arguments", f"`{name}` {why}.")
