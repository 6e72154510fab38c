"""The manifest's schema as a tree of settings, each with its meaning: what the reference page and ``explain`` read.

Follows from ``schema.py`` alone, by way of pydantic's JSON schema; pure. Whatever shape the schema takes, a place may
hold sections (several where a ``kind`` decides which), a mapping of free names, or a list.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from app.manifest import schema
from app.manifest.jsonschema import UNIT, Node, manifest_nodes
from app.manifest.translate import PATTERN_WORDS

NAME, ITEM = ".NAME", "[]"
"""Stand in a path for the free name of a mapping, and for the position in a list."""

_PLAIN_TEXT = re.compile(r"(?!(?i:true|false|null)\Z)[A-Za-z][A-Za-z0-9_./-]*|[0-9]+[A-Za-z]+")
_RANGES = (
    (("minimum", "maximum"), "{minimum} to {maximum}"),
    (("exclusiveMinimum", "maximum"), "more than {exclusiveMinimum}, up to {maximum}"),
    (("minimum",), "{minimum} or more"),
    (("exclusiveMinimum",), "more than {exclusiveMinimum}"),
    (("maximum",), "{maximum} or less"),
    (("maxLength",), "up to {maxLength} characters"),
)
"""Limits of a JSON schema in words; the first that has all of its keys."""


@dataclass(frozen=True, slots=True)
class Section:
    """Settings that stand together under one place."""

    kind: str | None
    """Which of several sections at the same place this is, such as ``kind: docker``."""
    description: str
    settings: Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class Setting:
    """One place of the manifest, and what may stand there."""

    path: str
    """Such as ``models.NAME.context_length`` or ``policy.roots[].path``; empty for the top level."""
    description: str
    value: str
    """What may stand there, in words."""
    required: bool
    default: Any
    unit: str | None = None
    """What a number counts, in words."""
    form: str | None = None
    """How text has to be written, in words."""
    example: str | None = None
    """A line of YAML."""
    where: str | None = None
    """The kind of the section that it is in, where that decides."""
    sections: tuple[Section, ...] = ()
    entry: Setting | None = None
    """What stands under each free name of a mapping, or at each position of a list, if that is worth its own answer."""

    @property
    def default_words(self) -> str:
        """The default for people; ``required`` where there is none to fall back to."""
        if self.required:
            return "required"
        if isinstance(self.default, dict):
            return "its own defaults"
        return "not set" if self.default in (None, "") else f"`{json.dumps(self.default, ensure_ascii=False)}`"

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the settings right below, of every kind of section."""
        return tuple(dict.fromkeys(key for section in self.sections for key in section.settings))

    def walk(self) -> Iterator[Setting]:
        """This setting and all below it, in the order of the schema."""
        yield self
        for section in self.sections:
            for setting in section.settings.values():
                yield from setting.walk()
        if self.entry is not None:
            yield from self.entry.walk()


def settings_tree(model: type[BaseModel] = schema.Manifest) -> Setting:
    """The top level of the manifest with everything below it."""
    found = manifest_nodes(model)
    return _Tree(found.get("$defs", {})).setting("", found, required=True)


class _Tree:
    """Makes settings of the nodes of a JSON schema."""

    def __init__(self, defs: Mapping[str, Node]) -> None:
        self._defs = defs

    def setting(
        self,
        path: str,
        node: Node,
        *,
        required: bool = False,
        where: str | None = None,
        around: tuple[Node, ...] = (),
        meaning: str = "",
    ) -> Setting:
        """The setting at ``path``.

        Args:
            path: Where it stands.
            node: What the schema says of it.
            required: Whether it must stand there.
            where: The kind of the section that it is in.
            around: The nodes that it is in: one that comes back is not entered again.
            meaning: Its description where the schema has none.
        """
        variants = self._fresh(node, around)
        bodies = [variant for variant in variants if _is_section(variant)]
        description = node.get("description") or _described(variants) or meaning
        patterns = [each["pattern"] for variant in variants for each in self._leaves(variant) if "pattern" in each]
        return Setting(
            path,
            " ".join(description.split()),
            self._words(variants, around),
            required=required,
            default=node.get("default"),
            unit=next((_unit(variant) for variant in variants if UNIT in variant), None),
            form=PATTERN_WORDS.get(patterns[0], patterns[0]) if patterns else None,
            example=_example(path, node, variants),
            where=where,
            sections=tuple(self._section(path, body, _kind(body) if bodies[1:] else None, around) for body in bodies),
            entry=self._entry(path, variants, around, description),
        )

    def _section(self, path: str, body: Node, kind: str | None, around: tuple[Node, ...]) -> Section:
        required, around = body.get("required", []), (*around, body)
        settings = {
            key: self.setting(f"{path}.{key}".lstrip("."), node, required=key in required, where=kind, around=around)
            for key, node in body.get("properties", {}).items()
        }
        return Section(kind, " ".join(body.get("description", "").split()), settings)

    def _entry(self, path: str, variants: list[Node], around: tuple[Node, ...], meaning: str) -> Setting | None:
        for variant in variants:
            items, named = variant.get("items", {}), _named_entry(variant)
            if named:
                return self.setting(path + NAME, named, around=(*around, variant), meaning=meaning)
            if any(map(_is_section, self._variants(items))):
                return self.setting(path + ITEM, items, around=(*around, variant), meaning=meaning)
        return None

    def _fresh(self, node: Node, around: tuple[Node, ...]) -> list[Node]:
        return [variant for variant in self._variants(node) if not any(variant is outer for outer in around)]

    def _variants(self, node: Node) -> list[Node]:
        """What may stand at a node, one by one: references followed, unions taken apart, null left out."""
        if "$ref" in node:
            return self._variants(self._defs[node["$ref"].rpartition("/")[2]])
        members = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
        if members:
            return [variant for member in members for variant in self._variants(member)]
        return [] if node.get("type") == "null" else [node]

    def _leaves(self, variant: Node) -> list[Node]:
        """The variant; of a list, what its items may be."""
        return self._variants(variant["items"]) if "items" in variant else [variant]

    def _words(self, variants: list[Node], around: tuple[Node, ...]) -> str:
        words = (self._word(variant, (*around, variant)) for variant in variants)
        return " or ".join(dict.fromkeys(words)) or "the same again"

    def _word(self, variant: Node, around: tuple[Node, ...]) -> str:
        if _is_section(variant):
            return "section, below"
        if "const" in variant or "enum" in variant:
            return " or ".join(f"`{_plain(choice)}`" for choice in _choices(variant))
        kind = variant.get("type")
        if kind == "array":
            return f"list of {self._words(self._fresh(variant.get('items', {}), around), around)}"
        if kind == "object":
            return f"NAME: {self._words(self._fresh(_named_entry(variant), around), around)}"
        words_of = {"string": "text", "boolean": "`true` or `false`", "integer": "whole number", "number": "number"}
        if isinstance(kind, list):
            return f"{words_of[kind[0]]} or text{_range(variant)}"
        return words_of.get(kind or "", "anything") + _range(variant)


def _is_section(variant: Node) -> bool:
    return "properties" in variant or variant.get("additionalProperties") is False


def _named_entry(variant: Node) -> Node:
    """What stands under each name of a mapping whose names are free; empty for anything else."""
    entries = [*variant.get("patternProperties", {}).values(), variant.get("additionalProperties")]
    return next((entry for entry in entries if isinstance(entry, dict)), {})


def _described(variants: list[Node]) -> str:
    """A setting that says no more than its section does is left without words by pydantic."""
    return next((variant["description"] for variant in variants if "description" in variant), "")


def _kind(body: Node) -> str | None:
    """What tells this section from the others at its place: the setting that has a single choice."""
    single = (
        (key, choices[0]) for key, node in body.get("properties", {}).items() if len(choices := _choices(node)) == 1
    )
    return next((f"{key}: {_plain(choice)}" for key, choice in single), None)


def _choices(node: Node) -> list[Any]:
    given = [node["const"]] if "const" in node else node.get("enum", [])
    return [choice for choice in given if choice is not None]


def _plain(value: Any) -> str:
    """A value as YAML on one line; text without quotes where it may go without."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_plain(key)}: {_plain(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _range(variant: Node) -> str:
    found = (words for limits, words in _RANGES if all(limit in variant for limit in limits))
    return next((f", {words.format(**variant)}" for words in found), "")


def _unit(variant: Node) -> str:
    written = _samples(variant, None)
    return f"{variant[UNIT]['name']}{f', or text such as {written[0]}' if written else ''}"


def _example(path: str, node: Node, variants: list[Node]) -> str | None:
    key, default = path.rpartition(".")[2], node.get("default")
    if not key or path.endswith((NAME, ITEM)):
        return None
    values = [value for variant in [node, *variants] for value in _samples(variant, default)]
    if not values and default and not isinstance(default, dict):
        values = [default]
    return f"{key}: {_plain(values[0])}" if values else None


def _samples(variant: Node, default: Any) -> list[Any]:
    """Values that would be right and say something: rather not the default; none where none can be told."""
    samples: list[Any] = []
    if "examples" in variant:
        samples = variant["examples"]
    elif choices := _choices(variant):
        samples = [*(choice for choice in choices if choice != default), *choices]
    elif unit := variant.get(UNIT):
        low, high = variant.get("minimum", -math.inf), variant.get("maximum", math.inf)
        samples = [written for written, means in unit["examples"] if low <= means <= high]
    elif variant.get("type") == "boolean":
        samples = [not default]
    elif variant.get("type") == "array":
        samples = [[value] for value in _samples(variant.get("items", {}), None)]
    elif variant.get("type") in ("integer", "number") and default is None and "minimum" in variant:
        samples = [variant["minimum"]]
    return samples
