"""The changes that command line and HTTP make: models and tools, added and removed."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AlreadyThereError, ModelNotFoundError, ToolNotFoundError
from app.manifest import changes
from app.manifest.load import Loaded, parse_manifest

KNOWN = ("clock", "list_contents", "read_file")


def manifest(tools: str = "") -> Loaded:
    models = "models:\n  small:\n    filename: a.gguf\n    aliases: [tiny]\n  other: {filename: b.gguf}\n"
    return parse_manifest(f"version: 1\ndefault_model: small\n{models}{tools}".encode(), name="airlab.yaml")


def builtin(text: str) -> Any:
    return parse_manifest(text.encode(), name="airlab.yaml").manifest.tools.builtin


def test_model_is_added_and_removed() -> None:
    added = changes.add_model(manifest(), "new", {"filename": "c.gguf"})

    assert added == manifest().text + "  new:\n    filename: c.gguf\n"
    loaded = parse_manifest(added.encode(), name="airlab.yaml")
    assert changes.remove_model(loaded, "new") == manifest().text


def test_model_that_is_there_is_not_added_again() -> None:
    with pytest.raises(AlreadyThereError, match="a model 'small' already"):
        changes.add_model(manifest(), "small", {"filename": "c.gguf"})


@pytest.mark.parametrize(("name", "meant"), [("smal", "small"), ("tiny", "small")])
def test_model_that_is_not_there_is_answered_with_those_that_are(name: str, meant: str) -> None:
    with pytest.raises(
        ModelNotFoundError, match=rf"no model '{name}'; did you mean `{meant}`\?; there are small, other"
    ):
        changes.remove_model(manifest(), name)


def test_removing_a_tool_from_all_writes_the_others_out() -> None:
    for tools in ("", "tools: {}\n", "tools:\n  builtin: all  # why\n"):
        assert builtin(changes.remove_tool(manifest(tools), "clock", KNOWN)) == ["list_contents", "read_file"]


@pytest.mark.parametrize(
    "tools", ["tools: {builtin: [clock, read_file]}\n", "tools:\n  builtin:\n  - clock\n  - read_file\n"]
)
def test_tool_is_added_to_a_list_and_removed_from_it(tools: str) -> None:
    added = changes.add_tool(manifest(tools), "list_contents", KNOWN)

    assert builtin(added) == ["clock", "read_file", "list_contents"]
    assert builtin(changes.remove_tool(manifest(tools), "clock", KNOWN)) == ["read_file"]


def test_list_may_become_empty_and_be_filled_again() -> None:
    empty = changes.remove_tool(manifest("tools:\n  builtin: [clock]\n"), "clock", KNOWN)

    assert builtin(empty) == []
    filled = changes.add_tool(parse_manifest(empty.encode(), name="airlab.yaml"), "read_file", KNOWN)
    assert filled.endswith("tools:\n  builtin: [read_file]\n")


@pytest.mark.parametrize("change", [changes.add_tool, changes.remove_tool])
def test_unknown_tool_is_answered_with_the_nearest_and_all(change: Any) -> None:
    with pytest.raises(
        ToolNotFoundError, match=r"no tool 'read_fil'; did you mean `read_file`\?; there are clock, list"
    ):
        change(manifest(), "read_fil", KNOWN)


def test_tool_that_is_offered_already_or_not_at_all_is_no_change() -> None:
    with pytest.raises(AlreadyThereError, match=r"clock is offered already: tools\.builtin is all"):
        changes.add_tool(manifest(), "clock", KNOWN)
    with pytest.raises(AlreadyThereError, match=r"clock is offered already$"):
        changes.add_tool(manifest("tools: {builtin: [clock]}\n"), "clock", KNOWN)
    with pytest.raises(ToolNotFoundError, match="clock is not among the tools that are offered; there are none"):
        changes.remove_tool(manifest("tools: {builtin: []}\n"), "clock", KNOWN)
