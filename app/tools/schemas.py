"""JSON Schemas that are not ours: of tools that the manifest or an MCP server declares. Pure.

Bounded before they are used, since checking a value against a hostile schema may take forever. Nothing is fetched, and
patterns are matched in time linear in the text (Rust's ``regex``), so that none can stop the service.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

SCHEMA_BYTES = 16 * 1024
"""The longest schema of one tool, as JSON."""

_MOST_NODES, _MOST_DEPTH = 2000, 24
_PATTERN_BYTES = 1024**2
_FAULTS, _FAULT_CHARACTERS = 5, 200
_DRAFTS = ("2020-12", "2019-09", "draft-07", "draft-06", "draft-04")
_REFUSED = ("$id", "id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary")
_SHOWN = frozenset(
    {
        *("type", "properties", "required", "items", "enum", "const", "description", "title", "default"),
        *("anyOf", "oneOf", "$ref", "$defs", "definitions"),
    }
)
"""Keywords of which llama-server's grammars know all that they may say."""
_CLOSED = ("additionalProperties", False)
_OF_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"})
_OF_SCHEMAS = frozenset(
    {"items", "prefixItems", "anyOf", "oneOf", "allOf", "not", "if", "then", "else", "contains"}
) | {
    *("additionalProperties", "additionalItems", "propertyNames", "unevaluatedItems", "unevaluatedProperties"),
}


def schema_problem(schema: object) -> str | None:
    """Why a tool's arguments cannot be described by this, in words; None where they can."""
    try:
        size_bytes = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError):
        return "is no JSON, or is nested too deeply"
    if size_bytes > SCHEMA_BYTES:
        return f"is longer than {SCHEMA_BYTES // 1024} KiB"
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "does not describe an object; it begins with `type: object`"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(isinstance(each, dict) for each in properties.values()):
        return "has `properties` that are no mapping of names to schemas"
    try:
        return _Measure(schema).problem() or _not_understood(schema)
    except RecursionError:
        return "is nested too deeply"


def faults(schema: Mapping[str, Any], value: Mapping[str, Any]) -> list[str]:
    """What is wrong with a value, in at most five short sentences; none when it fits. The schema has no problem."""
    found: list[str] = []
    try:
        for error in _validator(json.dumps(schema)).iter_errors(value):
            found.append(_in_words(error))
            if len(found) == _FAULTS:
                break
    except ValueError as exc:  # half a character, a nesting without end
        found.append(_plain(f"no value that can be checked ({str(exc)[:_FAULT_CHARACTERS]})"))
    return found


def _in_words(error: ValidationError) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    said = f"`{place[1:81]}`: {error.message}" if place else error.message
    return _plain(said[:_FAULT_CHARACTERS])


def for_models(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a schema that every engine can make a grammar of: what it leaves out is checked all the same.

    llama-server refuses a whole request for one pattern that it cannot read.
    """
    return {key: _for_models(key, value) for key, value in schema.items() if key in _SHOWN or (key, value) == _CLOSED}


def _for_models(key: str, value: Any) -> Any:
    if key in _OF_NAMES and isinstance(value, dict):
        return {name: for_models(each) if isinstance(each, dict) else each for name, each in value.items()}
    if key in _OF_SCHEMAS and isinstance(value, list):
        return [for_models(each) if isinstance(each, dict) else each for each in value]
    return for_models(value) if key in _OF_SCHEMAS and isinstance(value, dict) else value


@lru_cache(maxsize=256)
def _validator(schema: str) -> Validator:
    # Here and not above: most services declare no tool, and it takes 8 MiB.
    from jsonschema_rs import RegexOptions, validator_for  # noqa: PLC0415

    patterns = RegexOptions(size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES)
    loaded = json.loads(schema)
    return validator_for(loaded, pattern_options=patterns, offline=True, validate_formats=False, mask="it")


def _not_understood(schema: Mapping[str, Any]) -> str | None:
    from jsonschema_rs import ReferencingError, ValidationError  # noqa: PLC0415 # as above

    try:
        _validator(json.dumps(schema))
    except (ValidationError, ReferencingError, ValueError) as exc:
        words = str(exc).partition("\n")[0]
        return _plain(f"is no valid JSON Schema: {words[:_FAULT_CHARACTERS]}")
    return None


def _plain(text: str) -> str:
    return " ".join(text.encode(errors="replace").decode().split())


class _Measure:
    """Walks a schema as a validator would: along its references, which must come to an end soon."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._left = _MOST_NODES

    def problem(self) -> str | None:
        draft = self._root.get("$schema")
        if draft is not None and not any(name in str(draft) for name in _DRAFTS):
            return "names a `$schema` that is not known; leave it out"
        return next(self._problems(self._root, 0, ()), None)

    def _problems(self, node: Any, depth: int, following: tuple[str, ...]) -> Iterator[str]:
        self._left -= 1
        if depth > _MOST_DEPTH or self._left < 0:
            yield f"has more than {_MOST_NODES} parts, or is more than {_MOST_DEPTH} deep, references followed"
            return
        if isinstance(node, list):
            for each in node:
                yield from self._problems(each, depth + 1, following)
        if not isinstance(node, dict):
            return
        refused = next((key for key in _REFUSED if key in node and not isinstance(node[key], dict)), None)
        if refused is not None:
            yield f"holds `{refused}`; only `$ref` within the schema is allowed"
            return
        if "$ref" in node:
            yield from self._follow(node["$ref"], depth, following)
        for key, value in node.items():
            if key not in ("$defs", "definitions", "enum", "const", "default", "examples"):
                yield from self._problems(value, depth + 1, following)

    def _follow(self, ref: object, depth: int, following: tuple[str, ...]) -> Iterator[str]:
        if isinstance(ref, dict):
            return  # a property of that name
        parts = str(ref).split("/")
        if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions"):
            yield "holds a `$ref` that is not like `#/$defs/NAME`"
        elif ref in following:
            yield f"refers to itself by `{str(ref)[:80]}`"
        elif not isinstance(held := self._root.get(parts[1], {}), dict) or parts[2] not in held:
            yield f"refers to `{str(ref)[:80]}`, which it does not hold"
        else:
            yield from self._problems(self._root[parts[1]][parts[2]], depth + 1, (*following, str(ref)))
