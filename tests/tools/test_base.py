"""What a tool tells of itself, and how a path is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from app.tools.base import (
    AbsolutePath,
    ChangedPath,
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


def test_tool_says_what_it_changes_how_long_it_may_take_and_how_long_its_result_holds() -> None:
    @tool(risk="write", cache_s=60, timeout_s=2.5)
    def put(source: AbsolutePath, dest: ChangedPath, text: list[str] | str) -> None:
        """Put. source: from. dest: to. text: what."""

    spec = spec_of(put)

    assert (spec.kind, spec.paths, spec.changes, spec.cache_s, spec.timeout_s) == (
        *("fs_write", ("source", "dest"), ("dest",)),
        *(60, 2.5),
    )
    assert spec.parameters["properties"]["text"] == {
        "type": ["array", "string"],
        "items": {"type": "string"},
        "description": "what.",
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

    assert {name: spec.kind for name, spec in specs.items()} == {
        "calculate_directory_size": "fs_read",
        "copy_file": "fs_write",
        "create_directory": "fs_write",
        "delete_file": "fs_write",
        "find_in_files": "fs_read",
        "get_current_directory": "fs_read",
        "get_current_time": "fs_read",
        "get_file_info": "fs_read",
        "list_contents": "fs_read",
        "lookup_hostname": "net",
        "measure_http_latency": "net",
        "move_file": "fs_write",
        "read_file": "fs_read",
        "search_files": "fs_read",
        "write_file": "fs_write",
    }
    assert [name for name, spec in specs.items() if spec.risk == "destructive"] == ["delete_file"]
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


def test_innermost_root_says_whether_a_path_may_be_changed() -> None:
    inside = Confinement(
        "fs_write",
        read=(PurePosixPath("/ws"), PurePosixPath("/ws/books")),
        write=(PurePosixPath("/ws"), PurePosixPath("/ws/books/drafts")),
    )

    for path, writable in (("/ws/a", True), ("/ws/books/a", False), ("/ws/books/drafts/a", True), ("/a", False)):
        assert inside.is_writable(PurePosixPath(path)) == writable


def test_root_or_protected_place_at_or_below_a_path_must_stay() -> None:
    inside = Confinement(
        "fs_write",
        write=(PurePosixPath("/ws"),),
        protected=(Protected(PurePosixPath("/ws/a/secret"), "tree"), Protected(PurePosixPath("/"), "exact")),
    )

    for path, stays in (("/ws/b", None), ("/ws/a", "/ws/a/secret"), ("/ws", "/ws"), ("/", "/ws"), ("/ws/a/s", None)):
        assert inside.must_stay(PurePosixPath(path)) == (PurePosixPath(stays) if stays else None)


def test_confinement_survives_the_way_to_the_worker_but_permission_to_destroy_does_not() -> None:
    """Workers wait for any call; the permission belongs to one."""
    inside = Confinement(
        "fs_read",
        read=(PurePosixPath("/ws"),),
        write=(PurePosixPath("/ws"),),
        protected=(Protected(PurePosixPath("/ws/secret"), "tree"),),
        limits=Limits(read_bytes=7, write_bytes=8),
        allow_private=("10.0.0.0/8",),
        ports=(443,),
    )
    sent = replace(inside, may_destroy=True).to_json()

    assert Confinement.from_json(json.loads(json.dumps(sent))) == inside
