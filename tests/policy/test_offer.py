"""What a model is shown of a tool: its paths narrowed to the roots."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from app.policy.offer import shown, why_not
from app.policy.rules import Policy, Root
from app.tools.base import discover

TOOLS = discover()


def policy(*roots: str) -> Policy:
    return Policy(TOOLS, tuple(Root(PurePosixPath(root), "read") for root in roots))


def pattern(*roots: str) -> str:
    return str(shown(policy(*roots), TOOLS["read_file"]).parameters["properties"]["path"]["pattern"])


def test_path_is_narrowed_to_the_roots() -> None:
    """The engine's grammar holds a guided model to this pattern: it cannot even write another path."""
    allowed = re.compile(pattern("/srv/a.b/workspace", "/data"))

    assert all(map(allowed.fullmatch, ["/srv/a.b/workspace", "/srv/a.b/workspace/x/y z.txt", "/data/1"]))
    assert not any(map(allowed.fullmatch, ["/etc/passwd", "/srv/aXb/workspace", "/database", "workspace", "/data/"]))


def test_description_names_the_roots() -> None:
    """A model that no grammar holds is told where it may look."""
    properties = shown(policy("/data"), TOOLS["list_contents"]).parameters["properties"]

    assert "/data" in properties["path"]["description"]
    assert properties["show_hidden"] == TOOLS["list_contents"].parameters["properties"]["show_hidden"]


def test_tool_without_paths_is_shown_as_it_is() -> None:
    assert shown(policy("/data"), TOOLS["get_current_time"]) is TOOLS["get_current_time"]


def test_without_roots_nothing_is_narrowed() -> None:
    """The gate denies every path then; an empty choice would be no grammar."""
    assert shown(policy(), TOOLS["read_file"]) is TOOLS["read_file"]


def test_what_is_changed_is_narrowed_to_the_writable_roots() -> None:
    """A guided model could not even write a path that the gate would deny."""
    both = Policy(TOOLS, (Root(PurePosixPath("/data"), "read"), Root(PurePosixPath("/work"), "write")))
    properties = shown(both, TOOLS["copy_file"]).parameters["properties"]

    assert "/data" in properties["source"]["pattern"]
    assert "/work" in properties["source"]["pattern"]
    assert "/data" not in properties["dest"]["pattern"]
    assert "/data" not in properties["dest"]["description"]


def test_tool_that_could_never_run_says_why() -> None:
    """What is only ever denied costs a model rounds and tokens."""
    reading = policy("/data")
    writing = replace(reading, roots=(Root(PurePosixPath("/work"), "write"),))

    assert why_not(reading, TOOLS["read_file"], None) is None
    assert why_not(reading, TOOLS["write_file"], None) == "no folder is open for writing (policy.roots)"
    assert why_not(writing, TOOLS["write_file"], None) is None
    assert why_not(writing, TOOLS["delete_file"], None) is None, "a person may be asked"
    assert why_not(replace(writing, destructive="deny"), TOOLS["delete_file"], None) == "policy.destructive is deny"
    assert why_not(writing, TOOLS["read_file"], "no Landlock here") == "no Landlock here"
