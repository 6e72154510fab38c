"""Reads the arguments of a call, which a model wrote and which may be anything. Pure.

Checks by itself against the schemas that ``@tool`` makes: objects of strings, booleans, numbers, lists of strings, and
what may be one of these. A schema from elsewhere gets a real validator (``app.tools.schemas``).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from app.tools import schemas
from app.tools.base import ToolProblem, ToolSpec, parse_path

TEXT_BYTES = 64 * 1024
"""The longest arguments of a call that writes nothing, as JSON in UTF-8."""
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
}
_WORDS: Mapping[str, str] = {
    "string": "a text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list of texts",
}


def read_arguments(spec: ToolSpec, text: str, *, limit_bytes: int = TEXT_BYTES) -> dict[str, Any]:
    """The arguments of a call, as values that fit the tool's schema; an empty text means none.

    Args:
        spec: The tool.
        text: What the model wrote.
        limit_bytes: The longest text that is read, in UTF-8.

    Raises:
        ToolProblem: ``invalid_arguments`` or ``invalid_path``, with every fault that was found.
    """
    if len(text) > limit_bytes or len(text.encode(errors="replace")) > limit_bytes:
        sentence = f"{spec.name}: the arguments are longer than {limit_bytes // 1024} KiB. Send less."
        raise ToolProblem("invalid_arguments", sentence)
    given = _read_object(spec, text)
    properties: Mapping[str, Any] = spec.parameters.get("properties", {})
    # Models write null for what they leave out.
    given = {name: value for name, value in given.items() if value is not None or name not in properties}
    faults = schemas.faults(spec.parameters, given) if spec.is_declared else _faults(spec, given)
    if faults:
        raise ToolProblem("invalid_arguments", f"{spec.name}: {'; '.join(faults)}. {_usage(spec)}")
    for name in spec.paths:
        if name in given:
            parse_path(given[name])
    return given


def _faults(spec: ToolSpec, given: Mapping[str, Any]) -> list[str]:
    properties: Mapping[str, Any] = spec.parameters["properties"]
    required: list[str] = spec.parameters["required"]
    found = [_unknown(name, list(properties)) for name in given if name not in properties]
    found += [f"`{name}` is missing" for name in required if name not in given]
    return found + [
        f"`{name}` must be {_kind_in_words(properties[name])}"
        for name, value in given.items()
        if name in properties and not _fits(properties[name], value)
    ]


def _read_object(spec: ToolSpec, text: str) -> dict[str, Any]:
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


def _types(schema: Mapping[str, Any]) -> list[str]:
    return [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])


def _fits(schema: Mapping[str, Any], value: object) -> bool:
    types = _types(schema)
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, list):
        return "array" in types and all(isinstance(entry, str) for entry in value)
    return any(isinstance(value, _KINDS[name]) for name in types)


def _kind_in_words(schema: Mapping[str, Any]) -> str:
    return " or ".join(_WORDS[name] for name in _types(schema))


def _unknown(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name[:80], allowed, n=1)
    shown = name[:80].encode(errors="replace").decode()  # JSON may spell half a character, which UTF-8 cannot
    return f"`{shown}` is not known" + (f"; did you mean `{near[0]}`?" if near else "")


def _usage(spec: ToolSpec) -> str:
    properties, required = spec.parameters.get("properties", {}), spec.parameters.get("required", ())
    takes = [f"{name}{'' if name in required else ' (optional)'}" for name in properties]
    return f"It takes {', '.join(takes)}." if takes else "It takes no arguments: send {}."
