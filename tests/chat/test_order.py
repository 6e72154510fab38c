"""Which calls of a round wait for which."""

from __future__ import annotations

import json

import pytest

from app.chat.order import predecessors
from app.messages import ToolCall
from app.tools.base import Risk, ToolSpec


def spec(name: str, risk: Risk, *paths: str) -> ToolSpec:
    return ToolSpec(name, "", {"type": "object", "properties": {}, "required": []}, risk, paths, "x:y")


SPECS = {
    each.name: each
    for each in (
        spec("read", "read", "path"),
        spec("write", "write", "path"),
        spec("move", "write", "source", "dest"),
        spec("lookup", "net"),
        spec("run", "command"),
    )
}


def order(*asked: tuple[str, dict[str, object]]) -> list[list[int]]:
    calls = [ToolCall(str(at), name, json.dumps(arguments)) for at, (name, arguments) in enumerate(asked)]
    return predecessors(calls, SPECS)


def test_reads_run_side_by_side_also_of_one_file() -> None:
    assert order(("read", {"path": "/w/a"}), ("read", {"path": "/w/a"}), ("lookup", {})) == [[], [], []]


def test_two_writes_to_one_path_keep_their_order() -> None:
    assert order(("write", {"path": "/w/a"}), ("write", {"path": "/w/b"}), ("write", {"path": "/w//a"})) == [
        [],
        [],
        [0],
    ]


def test_reading_waits_for_what_was_written_there_or_above_or_below() -> None:
    """A folder that is listed after a file was written into it is meant to show the file."""
    assert order(("write", {"path": "/w/d/a"}), ("read", {"path": "/w/d"}), ("read", {"path": "/w/db"})) == [
        [],
        [0],
        [],
    ]


def test_a_move_waits_for_both_of_its_ends() -> None:
    asked: tuple[tuple[str, dict[str, object]], ...] = (
        ("read", {"path": "/w/a"}),
        ("write", {"path": "/w/b"}),
        ("move", {"source": "/w/a", "dest": "/w/b"}),
    )
    assert order(*asked) == [[], [], [0, 1]]


def test_what_changes_things_in_unknown_places_goes_one_after_another() -> None:
    assert order(("run", {}), ("run", {}), ("read", {"path": "/w/a"}), ("write", {"path": "/w/a"})) == [
        [],
        [0],
        [],
        [0, 1, 2],
    ]


@pytest.mark.parametrize("arguments", ["", "[]", "{", '{"path": 3}', '{"path": "relative"}', "[" * 100_000])
def test_calls_that_cannot_be_read_wait_for_nobody_who_names_a_path(arguments: str) -> None:
    """They are refused by the gate; here they must only not break anything."""
    calls = [ToolCall("1", "read", arguments), ToolCall("2", "write", '{"path": "/w/a"}')]
    assert predecessors(calls, SPECS) == [[], []]


def test_unknown_tools_wait_for_nobody() -> None:
    assert order(("nothing", {"path": "/w/a"}), ("write", {"path": "/w/a"})) == [[], []]
