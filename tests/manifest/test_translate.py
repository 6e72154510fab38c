"""What pydantic complains about, said in our words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from app.manifest.nodes import Positions, compose
from app.manifest.problems import Problem, Source
from app.manifest.schema import Manifest
from app.manifest.translate import PATTERN_WORDS, TRANSLATED, translate
from app.manifest.values import Section


class Native(Section):
    kind: Literal["native"]
    binary: str = ""


class Docker(Section):
    kind: Literal["docker"]
    image: Annotated[str, Field(min_length=1)]


class Sample(Section):
    engine: Annotated[Native | Docker, Field(discriminator="kind")] | None = None
    either: Annotated[int, Field(ge=1, le=9)] | Literal["auto"] = 1
    multiple: Annotated[int, Field(multiple_of=2)] = 2
    text: Annotated[str, Field(max_length=3)] = ""
    ratio: float = 1.0
    pairs: dict[str, int] | None = None
    names: list[str] | None = None


def check(text: str) -> list[Problem]:
    source = Source("airlab.yaml", text)
    root, _ = compose(source)
    assert root is not None
    positions = Positions(source, root)
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate(root.value)
    return translate(caught.value.errors(), positions, Sample)


def only(text: str) -> Problem:
    [problem] = check(text)
    return problem


def test_skip_the_union_tag_so_that_the_line_is_found() -> None:
    """pydantic reports engine, docker, image; the YAML has no "docker" level."""
    problem = only("ratio: 1\nengine:\n  kind: docker\n  image: ''\n")

    assert (problem.path, problem.line, problem.column) == (("engine", "image"), 4, 10)
    assert (problem.message, problem.allowed) == ("is empty", "1 or more characters")


def test_a_setting_missing_in_a_union_points_at_the_section() -> None:
    problem = only("engine:\n  kind: docker\n")

    assert (problem.path, problem.line, problem.column) == (("engine", "image"), 1, 1)


def test_an_unknown_key_in_a_union_is_compared_with_its_own_member_only() -> None:
    assert only("engine: {kind: docker, image: x, imag: y}").suggestion == "image"
    assert only("engine: {kind: docker, image: x, binry: y}").allowed == "kind, image"


def test_a_wrong_kind_names_the_nearest() -> None:
    problem = only("engine: {kind: dockr}")

    assert (problem.message, problem.allowed) == ("there is no `kind` called 'dockr'", "native, docker")
    assert problem.suggestion == "docker"


def test_a_missing_kind_is_asked_for() -> None:
    assert only("engine: {image: x}").fix == "add `kind: ...`"


def test_the_members_of_a_union_become_one_problem() -> None:
    problem = only("either: atuo")

    assert (problem.path, problem.line, problem.column) == (("either",), 1, 9)
    assert problem.allowed == "a whole number or auto"


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("ratio: '1'", "the text '1' is not a number", "write it without quotes and leading zeros"),
        ("ratio: true", "true is not a number", "write it like `0.7`"),
        ("ratio:", "has no value", "write one, such as `0.7`, or delete the line"),
        ("text: 12", "12 is not text", 'put it in quotes: "12"'),
        ("text: true", "true is not text", 'put it in quotes: "true"'),
        ("text: [a]", "a list is not text", 'write it like `"some words"`'),
        ("text: abcd", "is too long, with 4 characters", "shorten it"),
        ("pairs: [a]", "a list is not a mapping", "write it like `key: value`"),
        ("names: a", "the text 'a' is not a list", "write it like `[a, b]`"),
        ("names: {a: b}", "a mapping is not a list", "write it like `[a, b]`"),
    ],
)
def test_a_wrong_type_says_what_was_found_and_what_to_write(text: str, message: str, fix: str) -> None:
    problem = only(text)

    assert (problem.message, problem.fix) == (message, fix)


def test_a_mistake_without_words_of_ours_keeps_pydantics() -> None:
    problem = only("multiple: 3")

    assert (problem.line, problem.column) == (1, 11)
    assert problem.message == "Input should be a multiple of 2"


def core_schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of what pydantic compiled the manifest's schema to."""
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield schema
        for part in schema.values():
            yield from core_schemas(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from core_schemas(part)


ERRORS_OF_TYPES = {
    "str": "string_type",
    "int": "int_type",
    "float": "float_type",
    "bool": "bool_type",
    "list": "list_type",
    "dict": "dict_type",
    "model": "model_type",
    "model-fields": "extra_forbidden",
    "literal": "literal_error",
    "tagged-union": "union_tag_invalid",
    "function-before": "value_error",
    "function-after": "value_error",
}
WITHOUT_ERRORS = {"any", "no-info", "nullable", "default", "model-field", "definitions", "definition-ref", "union"}
ERRORS_OF_CONSTRAINTS = {
    "ge": "greater_than_equal",
    "le": "less_than_equal",
    "gt": "greater_than",
    "lt": "less_than",
    "multiple_of": "multiple_of",
    "pattern": "string_pattern_mismatch",
}


def test_everything_the_schema_can_complain_about_has_words_of_ours() -> None:
    """A constraint of a new kind in schema.py needs its sentence in translate.py; this says so."""
    parts = [part for part in core_schemas(Manifest.__pydantic_core_schema__) if "serialization" not in part["type"]]
    needed: set[str] = {"missing"}
    for part in parts:
        kind = part["type"]
        assert kind in ERRORS_OF_TYPES or kind in WITHOUT_ERRORS, f"what does {kind!r} complain about?"
        if kind in ERRORS_OF_TYPES:
            needed.add(ERRORS_OF_TYPES[kind])
        needed |= {error for name, error in ERRORS_OF_CONSTRAINTS.items() if part.get(name) is not None}
        for name, error in (("min_length", "too_short"), ("max_length", "too_long")):
            if part.get(name) is not None:
                needed.add(f"string_{error}" if kind == "str" else error)

    assert len(parts) > 50
    assert needed - set(TRANSLATED) == set()


def test_every_pattern_of_the_schema_is_explained_in_words() -> None:
    patterns = {part["pattern"] for part in core_schemas(Manifest.__pydantic_core_schema__) if part.get("pattern")}

    assert patterns - set(PATTERN_WORDS) == set()
