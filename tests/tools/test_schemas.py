"""Schemas that are not ours: what is refused before it is used, and that none can stop the service."""

from __future__ import annotations

from typing import Any

import pytest

from app.tools.schemas import SCHEMA_BYTES, faults, for_models, schema_problem

TEXT = {"type": "string"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def nested(depth: int) -> dict[str, Any]:
    schema = of(a=TEXT)
    for _ in range(depth):
        schema = of(a=schema)
    return schema


DOUBLING = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)} | {"d30": TEXT}


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        (None, "object"),
        ([], "object"),
        ({"type": "string"}, "object"),
        ({"type": "object", "properties": []}, "properties"),
        ({"type": "object", "properties": {"a": True}}, "properties"),
        (of(a={"type": "strin"}), "no valid"),
        (of(a={"pattern": "(?=x)"}), "no valid"),
        (of(a={"pattern": "((a{1000}){1000}){1000}"}), "no valid"),
        (of(a={"$ref": "https://example.org/schema"}), "$ref"),
        (of(a={"$ref": "file:///etc/passwd"}), "$ref"),
        (of(a={"$ref": "#/$defs/a"}) | {"$defs": {"a": {"$ref": "#/$defs/a"}}}, "itself"),
        (of(a={"$ref": "#/$defs/b"}) | {"$defs": {}}, "not hold"),
        (of(a={"$dynamicRef": "#x"}), "dynamicRef"),
        ({**of(), "$id": "https://example.org/x"}, "$id"),
        ({**of(), "$schema": "https://example.org/own"}, "$schema"),
        (of(a={"$ref": "#/$defs/d0"}) | {"$defs": DOUBLING}, "parts"),
        (nested(30), "deep"),
        (of(**{f"p{i}": TEXT for i in range(600)}), "KiB"),
        (of(a={"default": float("nan")}), "JSON"),
    ],
)
def test_schema_that_cannot_be_trusted_is_refused(schema: object, word: str) -> None:
    assert word in (schema_problem(schema) or "")


def test_schema_without_an_end_is_refused() -> None:
    endless = of()
    endless["properties"]["a"] = endless

    assert "nested" in (schema_problem(endless) or "")
    assert "nested" in (schema_problem(nested(100_000)) or "")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        of(id=TEXT, **{"$ref": TEXT, "type": TEXT, "$id": TEXT}),
        of(a={"$ref": "#/$defs/x"}, b={"$ref": "#/$defs/x"}) | {"$defs": {"x": TEXT}},
        {"$schema": "http://json-schema.org/draft-07/schema#", **of(a={"type": ["string", "null"]})},
    ],
)
def test_ordinary_schema_is_fine(schema: dict[str, Any]) -> None:
    assert len(str(schema)) < SCHEMA_BYTES
    assert schema_problem(schema) is None


def test_faults_are_named_with_their_place() -> None:
    schema = {**of(n={"type": "integer", "maximum": 5}, list={"items": TEXT}), "required": ["n"]}
    schema["additionalProperties"] = False

    assert faults(schema, {"n": 3, "list": ["a"]}) == []
    said = " ".join(faults(schema, {"n": 9, "list": [1], "other": "x" * 500}))
    assert "`n`" in said
    assert "`list[0]`" in said
    assert "other" in said
    assert "x" * 300 not in said
    assert "required" in faults(schema, {})[0]


def test_pattern_that_would_backtrack_for_ever_does_not() -> None:
    """With Python's re, this takes longer than the universe has."""
    assert faults(of(a={"pattern": "^(a+)+$"}), {"a": "a" * 50_000 + "!"})


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"\ud800": 1}, {"a": 10**400}])
def test_value_that_no_validator_expects_is_a_fault_or_fits(value: dict[str, Any]) -> None:
    for each in faults(of(a={"type": "string"}) | {"additionalProperties": False}, value):
        each.encode()


def test_models_are_shown_what_every_grammar_knows() -> None:
    schema = {
        "$schema": "x",
        **of(a={"type": "string", "pattern": "(", "format": "uri"}, pattern={"anyOf": [{"type": "null", "not": {}}]}),
        "additionalProperties": False,
        "required": ["a"],
    }

    assert for_models(schema) == {
        **of(a=TEXT, pattern={"anyOf": [{"type": "null"}]}),
        "additionalProperties": False,
        "required": ["a"],
    }
