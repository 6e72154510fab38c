"""Reads the arguments of a call, which a model wrote and which may be anything. Pure.

Checks against the schemas that ``@tool`` makes, and those alone: objects of strings, booleans, numbers and lists of
strings. A schema from elsewhere needs a real validator.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from app.tools.base import ToolProblem, ToolSpec, parse_path

_TEXT_BYTES = 64 * 1024
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
}


def read_arguments(spec: ToolSpec, text: str) -> dict[str, Any]:
    """The arguments of a call, as values that fit the tool's schema; an empty text means none.

    Raises:
        ToolProblem: ``invalid_arguments`` or ``invalid_path``, with every fault that was found.
    """
    given = _read_object(spec, text)
    properties: Mapping[str, Any] = spec.parameters["properties"]
    required: list[str] = spec.parameters["required"]
    # Models write null for what they leave out.
    given = {name: value for name, value in given.items() if value is not None or name not in properties}
    faults = [_unknown(name, list(properties)) for name in given if name not in properties]
    faults += [f"`{name}` is missing" for name in required if name not in given]
    faults += [
        f"`{name}` must be {_kind_in_words(properties[name])}"
        for name, value in given.items()
        if name in properties and not _fits(properties[name], value)
    ]
    if faults:
        raise ToolProblem("invalid_arguments", f"{spec.name}: {'; '.join(faults)}. {_usage(spec)}")
    for name in spec.paths:
        if name in given:
            parse_path(given[name])
    return given


def _read_object(spec: ToolSpec, text: str) -> dict[str, Any]:
    if len(text) > _TEXT_BYTES or len(text.encode(errors="replace")) > _TEXT_BYTES:
        raise ToolProblem("invalid_arguments", f"{spec.name}: the arguments are longer than 64 KiB. Send less.")
    try:
        value = json.loads(text or "{}", object_pairs_hook=_without_twins, parse_constant=_no_such_number)
    except (ValueError, RecursionError) as exc:
        why = f"{exc}" if isinstance(exc, ValueError) else "nested too deeply"
        raise ToolProblem("invalid_arguments", f"{spec.name}: not valid JSON ({why}). {_usage(spec)}") from exc
    if not isinstance(value, dict):
        raise ToolProblem("invalid_arguments", f"{spec.name}: the arguments are no JSON object. {_usage(spec)}")
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values for one name: whoever judged the one might run the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found


def _no_such_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _fits(schema: Mapping[str, Any], value: object) -> bool:
    if isinstance(value, bool):
        return bool(schema["type"] == "boolean")
    if isinstance(value, list):
        return schema["type"] == "array" and all(isinstance(entry, str) for entry in value)
    return isinstance(value, _KINDS[schema["type"]])


def _kind_in_words(schema: Mapping[str, Any]) -> str:
    words = {"string": "a text", "boolean": "true or false", "integer": "a whole number", "number": "a number"}
    return words.get(schema["type"], "a list of texts")


def _unknown(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name[:80], allowed, n=1)
    shown = name[:80].encode(errors="replace").decode()  # JSON may spell half a character, which UTF-8 cannot
    return f"`{shown}` is not known" + (f"; did you mean `{near[0]}`?" if near else "")


def _usage(spec: ToolSpec) -> str:
    properties, required = spec.parameters["properties"], spec.parameters["required"]
    takes = [f"{name}{'' if name in required else ' (optional)'}" for name in properties]
    return f"It takes {', '.join(takes)}." if takes else "It takes no arguments: send {}."
