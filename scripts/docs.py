"""Writes the pages that follow from the code: ``docs/airlab.schema.json`` for editors, ``docs/manifest.md`` for people.

Both come from ``app.manifest.schema``. With ``--check`` nothing is written: it fails, naming the command to run, where
a committed page differs from what the code says now.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from app.manifest.schema import Manifest

ROOT = Path(__file__).resolve().parents[1]
INTRO = """# The manifest: airlab.yaml

Generated from `app/manifest/schema.py` by `make docs`; edit that, not this page. Unknown keys are refused.
"""


class _Schema(GenerateJsonSchema):
    """A number that something reads beforehand may also be written as text, such as ``8k``, ``15m`` or ``all``."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        read = super().function_before_schema(schema)
        return read | {"type": [read["type"], "string"]} if read.get("type") in ("integer", "number") else read


def _limits_by_name(node: Any) -> Any:
    """Where a number is read beforehand, pydantic leaves its limits as ge and le, which JSON Schema does not know."""
    if isinstance(node, list):
        return [_limits_by_name(item) for item in node]
    if not isinstance(node, dict):
        return node
    known = {"ge": "minimum", "le": "maximum"} if "type" in node else {}
    return {known.get(key, key): _limits_by_name(value) for key, value in node.items()}


def manifest_schema() -> dict[str, Any]:
    """The manifest's JSON schema, as editors use it."""
    schema = _limits_by_name(Manifest.model_json_schema(schema_generator=_Schema))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def manifest_page(schema: dict[str, Any]) -> str:
    """The settings reference: a table for each section, in the order in which one meets them in the file."""
    parts = [INTRO]
    for path, section in _sections("", schema, schema["$defs"]):
        title = f"`{path}`" if path else "Top level"
        rows = [_row(key, setting, section.get("required", [])) for key, setting in section["properties"].items()]
        table = ["| key | value | default | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {title}", "", section["description"], "", *table, ""]))
    return "\n".join(parts)


def _sections(path: str, section: dict[str, Any], defs: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, section
    for key, setting in section["properties"].items():
        below = f"{path}.{key}".lstrip(".")
        for variant in _variants(setting):
            if "$ref" in variant:
                yield from _sections(below, _resolved(variant, defs), defs)
            elif "$ref" in (entry := _entry(variant)):
                yield from _sections(f"{below}.NAME", _resolved(entry, defs), defs)


def _variants(setting: dict[str, Any]) -> list[dict[str, Any]]:
    return [v for v in setting.get("anyOf") or setting.get("oneOf") or [setting] if v.get("type") != "null"]


def _entry(variant: dict[str, Any]) -> dict[str, Any]:
    """What stands under each name of a mapping whose names are free; empty for anything else."""
    entries = [*variant.get("patternProperties", {}).values(), variant.get("additionalProperties")]
    return next((entry for entry in entries if isinstance(entry, dict)), {})


def _resolved(reference: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = defs[reference["$ref"].rpartition("/")[2]]
    return found


def _row(key: str, setting: dict[str, Any], required: list[str]) -> str:
    value = " or ".join(dict.fromkeys(_value(variant) for variant in _variants(setting)))
    meaning = " ".join(setting.get("description", "").split())
    cells = [f"`{key}`", value, "required" if key in required else _default(setting), meaning]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(setting: dict[str, Any]) -> str:
    default = setting.get("default")
    if isinstance(default, dict):
        return "its own defaults"
    return "not set" if default in (None, "") else f"`{json.dumps(default)}`"


def _value(variant: dict[str, Any]) -> str:
    """What may stand there, in words."""
    if "$ref" in variant:
        return "section, below"
    if "const" in variant or "enum" in variant:
        return " or ".join(f"`{value}`" for value in variant.get("enum", [variant.get("const")]))
    kind = variant.get("type")
    if kind == "array":
        return f"list of {_value(variant['items'])}"
    if kind == "object":
        return f"NAME: {_value(_entry(variant))}"
    words = {"string": "text", "boolean": "`true` or `false`", "integer": "whole number", "number": "number"}
    if isinstance(kind, list):
        return f"{words[kind[0]]} or text{_range(variant)}"
    return words.get(kind or "", "anything") + _range(variant)


def _range(variant: dict[str, Any]) -> str:
    match variant:
        case {"minimum": low, "maximum": high}:
            return f", {low} to {high}"
        case {"minimum": low}:
            return f", {low} or more"
        case {"maxLength": most}:
            return f", up to {most} characters"
    return ""


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` compare them; the exit code."""
    schema = manifest_schema()
    pages = {
        ROOT / "docs" / "airlab.schema.json": json.dumps(schema, indent=2) + "\n",
        ROOT / "docs" / "manifest.md": manifest_page(schema),
    }
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if arguments == ["--check"]:
        if stale:
            print(f"{names}: not what the code says now; to fix: make docs", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages[path], encoding="utf-8")
    print(f"written: {names}" if stale else "nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
