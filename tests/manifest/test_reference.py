"""The schema as a tree: nothing of it is lost or undocumented, whatever shape it takes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from app.manifest import schema
from app.manifest.jsonschema import editor_schema
from app.manifest.reference import ITEM, NAME, Setting, settings_tree
from app.manifest.values import Section
from tests.manifest.shapes import Shapes

TREE = settings_tree()
ALL = list(TREE.walk())


def by_path(tree: Setting) -> dict[str, Setting]:
    return {setting.path: setting for setting in tree.walk()}


def last_key(setting: Setting) -> str:
    return setting.path.rpartition(".")[2]


def sections_of_the_schema() -> list[type[Section]]:
    found = [Section]
    for section in found:
        found += [each for each in section.__subclasses__() if each.__module__.startswith("app.manifest.")]
    return found


@pytest.mark.parametrize("section", sections_of_the_schema(), ids=lambda section: section.__name__)
def test_every_attribute_of_the_schema_is_in_the_tree_with_its_docstring(section: type[Section]) -> None:
    """Whatever is added to the schema is documented, and can be asked for, without another line of code."""
    known = {(last_key(setting), setting.description) for setting in ALL}

    for name, field in section.model_fields.items():
        assert field.description, f"{section.__name__}.{name} has no docstring"
        assert (name, " ".join(field.description.split())) in known, f"{section.__name__}.{name}"


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.path or "top level")
def test_every_place_says_what_it_means_and_what_may_stand_there(setting: Setting) -> None:
    assert setting.description
    assert setting.value
    assert "$" not in setting.value
    assert setting.default_words


@pytest.mark.parametrize("setting", [setting for setting in ALL if setting.example], ids=lambda setting: setting.path)
def test_every_example_is_right_where_it_stands(setting: Setting) -> None:
    example = YAML(typ="safe").load(setting.example)
    kind = YAML(typ="safe").load(setting.where) if setting.where else {}
    manifest: Any = example | kind
    for part in reversed(setting.path.replace(ITEM, f".{ITEM}").split(".")[:-1]):
        manifest = [manifest] if part == ITEM else {part: manifest}

    with pytest.raises(ValidationError) as refused:  # it has no models
        schema.Manifest.model_validate(manifest)

    wrong = [error for error in refused.value.errors() if last_key(setting) in error["loc"]]
    assert [error for error in wrong if error["type"] != "missing"] == []


def test_most_settings_have_an_example() -> None:
    """Texts that only their owner can know have none; of whatever else an example follows from the schema."""
    leaves = [setting for setting in ALL if not setting.sections and not setting.path.endswith((NAME, ITEM))]

    assert [each.path for each in leaves if not each.example and each.value.startswith(("whole", "number", "`"))] == []


def test_units_are_told_where_a_quantity_is_read_and_kept_from_editors() -> None:
    places = by_path(TREE)

    assert places["models.NAME.context_length"].unit == "tokens, or text such as 8k"
    assert places["models.NAME.idle_timeout"].unit == "seconds, or text such as 15m"
    assert places["models.NAME.n_gpu_layers"].unit == "layers, or text such as all"
    assert places["policy.limits.read"].unit == "bytes, or text such as 256KiB"
    assert places["models.NAME.parallel"].unit is None
    assert "x-airlab" not in str(editor_schema())


def test_whatever_shape_the_schema_takes_every_place_is_reached() -> None:
    places = by_path(settings_tree(Shapes))

    assert {path: place.value for path, place in places.items() if path.count(".") < 1 and path} == {
        "match": "`any` or section, below",
        "on": "NAME: section, below",
        "roots": "list of section, below",
        "roots[]": "section, below",
        "one_or_more": "section, below or list of section, below",
        "one_or_more[]": "section, below",
        "engine": "section, below",
        "tools": "section, below",
        "variables": "NAME: text",
        "by_two": "NAME: NAME: section, below",
        "colour": "`red` or `blue`",
        "anything": "anything",
        "positive": "number, more than 0",
        "share": "number, more than 0, up to 1",
        "most": "whole number, 9 or less",
        "pinned": "`true`",
        "told": "text",
    }
    assert {
        "match.gpu",
        "on.NAME.gpu",
        "roots[].gpu",
        "one_or_more.gpu",
        "one_or_more[].gpu",
        "engine.image",
        "engine.kind",
        "tools.builtin",
        "tools.NAME.image",
        "variables.NAME",
        "by_two.NAME.NAME.gpu",
    } <= places.keys()
    assert places["tools.builtin"].value == "`all` or list of `red` or `blue`"
    assert places["variables.NAME"].description == "Texts by name."
    assert (places["match"].example, places["colour"].example) == ("match: any", "colour: blue")
    assert places["told"].example == 'told: "like this"'


def test_sections_at_one_place_are_told_apart_by_their_kind() -> None:
    engine = by_path(settings_tree(Shapes))["engine"]

    assert {section.kind: tuple(section.settings) for section in engine.sections} == {
        "kind: docker": ("kind", "image"),
        "kind: native": ("kind", "fallback"),
    }
    assert engine.keys == ("kind", "image", "fallback")


def test_section_that_holds_itself_is_told_once() -> None:
    fallback = by_path(settings_tree(Shapes))["engine.fallback"]

    assert (fallback.value, fallback.sections) == ("the same again", ())
