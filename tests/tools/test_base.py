"""What a tool tells of itself, and how a path is read."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest

from app.tools.base import (
    AbsolutePath,
    Confinement,
    Limits,
    Protected,
    Tool,
    ToolProblem,
    ToolSpec,
    discover,
    load,
    parse_path,
    tool,
)


def spec_of(made: object) -> ToolSpec:
    assert isinstance(made, Tool)
    return made.spec


def test_signature_and_docstring_make_the_schema() -> None:
    @tool(risk="read")
    def look(
        path: AbsolutePath,
        words: list[str],
        deep: bool = False,
        most: int = 3,
        share: float = 0.5,
        *,
        inside: Confinement,
    ) -> None:
        """Look for words.

        path: where.
        words: what for, such as "a: b".
        deep: below, too.
        most: how many.
        share: how much.
        """

    spec = spec_of(look)

    assert (spec.name, spec.description, spec.risk, spec.kind, spec.paths) == (
        *("look", "Look for words.", "read", "fs_read"),
        ("path",),
    )
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "where."},
            "words": {"type": "array", "items": {"type": "string"}, "description": 'what for, such as "a: b".'},
            "deep": {"type": "boolean", "description": "below, too.", "default": False},
            "most": {"type": "integer", "description": "how many.", "default": 3},
            "share": {"type": "number", "description": "how much.", "default": 0.5},
        },
        "required": ["path", "words"],
        "additionalProperties": False,
    }


def test_parameter_without_an_explanation_is_refused_at_import() -> None:
    """A model that does not know what an argument means guesses."""
    with pytest.raises(TypeError, match="`path: text`"):

        @tool(risk="read")
        def look(path: str) -> None:
            """Look."""


def test_parameter_of_a_type_that_no_model_can_write_is_refused_at_import() -> None:
    with pytest.raises(TypeError, match="a type a model can write"):

        @tool(risk="read")
        def look(path: bytes) -> None:
            """Look. path: where."""


def test_every_builtin_file_holds_the_tool_of_its_name() -> None:
    specs = discover()

    assert sorted(specs) == [
        "get_current_directory",
        "get_current_time",
        "list_contents",
        "lookup_hostname",
        "read_file",
    ]
    assert all(load(spec.entry).spec == spec and spec.description for spec in specs.values())


def test_entry_that_is_no_tool_is_named() -> None:
    with pytest.raises(TypeError, match=r"app\.units:parse_bytes is no tool"):
        load("app.units:parse_bytes")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "~",
        "notes.txt",
        "./notes.txt",
        "/ws/../etc/passwd",
        "/ws/..",
        "/" + "a" * 300,
        "/" + "a/" * 2500,
        "/ws/a\0b",
        "/ws/a\nb",
        "/ws/a\x1b[0m",
        "/ws/a\udcff",
        "/ws/a ",
        "/ws/a.",
        "/ws/./a",
        "C:\\Windows",
    ],
)
def test_fault_073_ill_formed_path_is_refused(text: str) -> None:
    with pytest.raises(ToolProblem) as caught:
        parse_path(text)

    assert caught.value.code == "invalid_path"
    caught.value.message.encode()  # and the sentence itself can be sent


def test_well_formed_path_is_read_the_same_however_it_is_written() -> None:
    assert parse_path("//ws///a b/ü.txt/") == PurePosixPath("/ws/a b/ü.txt")


def test_fault_074_root_is_compared_name_by_name() -> None:
    """A root /allowed once opened /allowed-evil in a well-known file server (CVE-2025-53110)."""
    inside = Confinement("fs_read", read=(PurePosixPath("/allowed"), PurePosixPath("/allowed/inner")))

    assert inside.root_of(PurePosixPath("/allowed-evil/x")) is None
    assert inside.root_of(PurePosixPath("/allowed/x")) == PurePosixPath("/allowed")
    assert inside.root_of(PurePosixPath("/allowed/inner/x")) == PurePosixPath("/allowed/inner")


def test_confinement_survives_the_way_to_the_worker() -> None:
    inside = Confinement(
        "fs_read",
        read=(PurePosixPath("/ws"),),
        protected=(Protected(PurePosixPath("/ws/secret"), "tree"),),
        limits=Limits(read_bytes=7),
    )

    assert Confinement.from_json(json.loads(json.dumps(inside.to_json()))) == inside
