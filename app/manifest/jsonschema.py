"""The manifest's JSON schema, for editors and for the reference. Follows from ``schema.py`` alone; pure."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from app.manifest import schema, values

UNIT = "x-airlab-unit"
"""Where a node has the unit of its quantity: its name, and texts that may be written with the numbers they mean."""

_UNITS = {
    get_args(quantity)[1].func: (name, examples)
    for quantity, name, examples in (
        (values.Tokens, "tokens", ("8k", "2k")),
        (values.DurationS, "seconds", ("15m", "10s")),
        (values.SizeBytes, "bytes", ("15GiB", "256KiB")),
        (values.GpuLayers, "layers", ("all",)),
    )
}
"""What reads a quantity beforehand, with the unit it counts in and ways to write one."""

_LIMITS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}

Node = dict[str, Any]
"""One node of a JSON schema."""


class _Schema(GenerateJsonSchema):
    """A number that something reads beforehand may also be written as text, such as ``8k``, ``15m`` or ``all``."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        read = super().function_before_schema(schema)
        if read.get("type") not in ("integer", "number"):
            return read
        read = read | {"type": [read["type"], "string"]}
        function: Any = schema["function"]["function"]
        if function in _UNITS:
            name, examples = _UNITS[function]
            read[UNIT] = {"name": name, "examples": [[example, function(example)] for example in examples]}
        return read


def editor_schema() -> Node:
    """The manifest's JSON schema, as editors use it."""
    found: Node = _without_units(manifest_nodes(schema.Manifest))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def manifest_nodes(model: type[BaseModel]) -> Node:
    """The JSON schema of a manifest's model, with units."""
    found: Node = _limits_by_name(model.model_json_schema(schema_generator=_Schema))
    return found


def _limits_by_name(node: Any) -> Any:
    """Where a number is read beforehand, pydantic leaves its limits under names that JSON Schema does not know."""
    if isinstance(node, list):
        return [_limits_by_name(item) for item in node]
    if not isinstance(node, dict):
        return node
    known = _LIMITS if "type" in node else {}
    return {known.get(key, key): _limits_by_name(value) for key, value in node.items()}


def _without_units(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_units(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_units(value) for key, value in node.items() if key != UNIT}
