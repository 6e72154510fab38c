"""Edits of a manifest's text: exactly the change that was asked for, and not a character more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any, cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.errors import ManifestEditError
from app.manifest import edit
from app.manifest.load import Loaded, parse_manifest
from app.manifest.nodes import Positions, compose
from app.manifest.problems import Path, Source
from app.manifest.schema import Manifest
from tests.manifest.handwriting import KEYS, VALUES, written

SHIPPED = (File(__file__).parents[2] / "airlab.yaml").read_text()
MANY = settings(max_examples=150, deadline=None)
Case = tuple[dict[str, Any], str]


def loaded(text: str) -> Loaded:
    """A text with its positions; edits do not look at what the schema would make of it."""
    source = Source("airlab.yaml", text)
    root, problems = compose(source)
    assert root is not None, problems
    assert problems == []
    return Loaded(cast(Manifest, None), Positions(source, root), "", text)


def said(text: str) -> str:
    """What a text says, to compare: 1, 1.0 and true differ, and so does the order of keys."""
    return json.dumps(loaded(text).positions.root.value)


def collections(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every mapping and list in a value."""
    if isinstance(value, dict | list):
        yield path, value
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from collections(part, (*path, key))


def at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def drawn_entry(value: dict[str, Any], data: st.DataObject) -> Path:
    """The path of something in a document."""
    path, parent = data.draw(st.sampled_from([(path, parent) for path, parent in collections(value) if parent]))
    return (*path, data.draw(st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent)))))


def lines_besides(before: str, after: str) -> tuple[list[str], list[str]]:
    """The stretch of lines that differs, before and after."""
    old, new = re.split(r"\r\n|\n|\r", before), re.split(r"\r\n|\n|\r", after)
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return old, new


def same_line_breaks(before: str, after: str) -> bool:
    used = set(re.findall(r"\r\n|\n|\r", before)) or {"\n"}
    return set(re.findall(r"\r\n|\n|\r", after)) <= used


@MANY
@given(written(), st.data())
def test_adding_changes_nothing_else_and_removing_it_again_restores_every_byte(case: Case, data: st.DataObject) -> None:
    value, text = case
    path, parent = data.draw(st.sampled_from(list(collections(value))))
    new = data.draw(VALUES)
    key = data.draw(KEYS) if isinstance(parent, dict) else len(parent)
    assume(not isinstance(parent, dict) or key not in parent)
    if isinstance(key, str):
        added = edit.add_entry(loaded(text), path, key, new)
        parent[key] = new
    else:
        added = edit.append_item(loaded(text), path, new)
        parent.append(new)

    assert said(added) == json.dumps(value)
    assert len(lines_besides(text, added)[0]) <= 1
    assert same_line_breaks(text, added)
    restored = edit.remove_entry(loaded(added), (*path, key))
    # Text below a `|` at the very end needs the line break that the file did not end with.
    assert restored == text or (restored.rstrip("\r\n") == text and "|" in added)


@MANY
@given(written(), st.data())
def test_removing_takes_lines_out_and_changes_one_at_most(case: Case, data: st.DataObject) -> None:
    value, text = case
    path = drawn_entry(value, data)
    removed = edit.remove_entry(loaded(text), path)

    del at(value, path[:-1])[path[-1]]
    assert said(removed) == json.dumps(value)
    old, new = lines_besides(text, removed)
    left = iter(old)
    assert all(line in left for line in new[1:])  # in their order
    assert same_line_breaks(text, removed)


@MANY
@given(written(), st.data())
def test_setting_a_value_changes_that_value_alone(case: Case, data: st.DataObject) -> None:
    value, text = case
    path, new = drawn_entry(value, data), data.draw(VALUES)
    changed = edit.set_value(loaded(text), path, new)

    at(value, path[:-1])[path[-1]] = new
    assert said(changed) == json.dumps(value)
    assert same_line_breaks(text, changed)


FIELDS = st.fixed_dictionaries(
    {"filename": st.sampled_from(["a.gguf", "custom/é b.gguf"])},
    optional={
        "description": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
        "context_length": st.sampled_from([4096, "8k", "16 k"]),
        "kind": st.sampled_from([["chat"], ["chat", "embedding"]]),
        "recommended": st.booleans(),
        "hf_repo": st.just("org/repo:Q4_K_M"),
        "idle_timeout": st.sampled_from(["15m", 30, 1.5]),
        "on": st.just({"generic": {"parallel": 4}}),
    },
)
MANIFESTS = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "default_model": st.just("a"),
        "models": st.dictionaries(st.sampled_from(["b", "c.d", "12", "no"]), FIELDS, max_size=3).flatmap(
            lambda others: FIELDS.map(lambda fields: {"a": fields, **others})
        ),
    },
    optional={
        "tools": st.just({"builtin": "all"}),
        "server": st.just({"host": "::1", "hosts": ["a.b", "c"]}),
        "policy": st.just({"roots": [{"path": "workspace", "access": "write"}], "limits": {"call": "10s"}}),
    },
)


@MANY
@given(written(MANIFESTS), FIELDS, st.sampled_from(["new", "1e5", "on"]), st.booleans())
def test_valid_manifest_stays_valid_through_any_edit(case: Case, fields: Any, key: str, has_mark: bool) -> None:
    """Whole way: bytes, byte order mark and schema included."""
    value, text = case
    mark = "\ufeff" if has_mark else ""
    before = parse_manifest((mark + text).encode(), name="airlab.yaml")
    added = edit.add_entry(before, ("models",), key, fields)

    after = parse_manifest((mark + added).encode(), name="airlab.yaml")
    assert list(after.manifest.models) == [*before.manifest.models, key]
    assert json.dumps(after.positions.written(("models", key))) == json.dumps(fields)
    assert after.manifest.models["a"] == before.manifest.models["a"]
    assert said(edit.remove_entry(after, ("models", key))) == json.dumps(value)


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_shipped_manifest_takes_a_model_and_gives_it_back(eol: str) -> None:
    text = SHIPPED.replace("\n", eol)
    fields = {"filename": "New.gguf", "description": "Small", "aliases": ["org/new"], "preload": True}

    added = edit.add_entry(loaded(text), ("models",), "new", fields)

    lines = [
        "",
        "  new:",
        "    filename: New.gguf",
        "    description: Small",
        "    aliases: [org/new]",
        "    preload: true",
    ]
    assert eol.join([*lines, ""]) in added
    assert edit.remove_entry(loaded(added), ("models", "new")) == text


def test_comment_of_an_entry_goes_with_it_and_those_of_others_stay() -> None:
    text = (
        "# all of them\n"
        "models:\n"
        "  a: 1   # first\n"
        "\n"
        "  # about b,\n"
        "  # the second\n"
        "  b:\n"
        "    x: 1\n"
        "    # y: 2\n"
        "\n"
        "  # about c\n"
        "  c: 3\n"
        "  # the end of the models\n"
        "tools: {}\n"
    )

    assert edit.remove_entry(loaded(text), ("models", "b")) == (
        "# all of them\nmodels:\n  a: 1   # first\n\n  # about c\n  c: 3\n  # the end of the models\ntools: {}\n"
    )
    assert edit.remove_entry(loaded(text), ("models", "c")).endswith(
        "    # y: 2\n  # the end of the models\ntools: {}\n"
    )


def test_entry_that_was_switched_off_by_a_comment_stays_when_its_neighbour_goes() -> None:
    """Somebody keeps it there for later."""
    text = "models:\n  a: 1\n  # b:\n  #   filename: b.gguf\n  c: 3\n"

    assert edit.remove_entry(loaded(text), ("models", "c")) == "models:\n  a: 1\n  # b:\n  #   filename: b.gguf\n"


def test_heading_of_the_file_stays_when_its_first_entry_goes() -> None:
    text = "# yaml-language-server: $schema=x\na: 1\nb: 2\n"

    assert edit.remove_entry(loaded(text), ("a",)) == "# yaml-language-server: $schema=x\nb: 2\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a:\n  b: 1\nc: 2\n", "a: {}\nc: 2\n"),
        ("a:  # why\n  # about b\n  b: 1\n", "a: {}  # why\n"),
        ("a:\n- b: 1\n", "a:\n- {}\n"),
        ("a: {b: 1}\n", "a: {}\n"),
        ("a: { b: 1 }\n", "a: { }\n"),
        ("a: {\n  b: 1,\n}\n", "a: {\n}\n"),
    ],
)
def test_mapping_that_loses_its_last_entry_says_that_it_is_empty(before: str, after: str) -> None:
    """Nothing after the colon would be null, which is no mapping."""
    path: Path = ("a", 0, "b") if "-" in before else ("a", "b")

    assert edit.remove_entry(loaded(before), path) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: 1", "a: 1\nt:\n  b: [x]"),
        ("a: 1\r\n", "a: 1\r\nt:\r\n  b: [x]\r\n"),
        ("a:\n    b: 1\n\nc: 2\n", "a:\n    b: 1\n\nc: 2\n\nt:\n    b: [x]\n"),
        ("a: 1\n...\n", "a: 1\nt:\n  b: [x]\n...\n"),
        ("a: 1\nt:\n", "a: 1\nt:\n  b: [x]\n"),
        ("a: 1\nt: {}  # none\n", "a: 1\nt: {b: [x]}  # none\n"),
        ('{"a": 1}', '{"a": 1, "t": {"b": ["x"]}}'),
        ('{\n "a": 1\n}\n', '{\n "a": 1,\n "t": {"b": ["x"]}\n}\n'),
    ],
)
def test_section_that_is_missing_or_empty_is_made_in_the_way_of_the_file(before: str, after: str) -> None:
    assert edit.add_entry(loaded(before), ("t",), "b", ["x"]) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: [x]  # why\n", "a: [x, z]  # why\n"),
        ("a: [x, ]\n", "a: [x, z, ]\n"),
        ("a: []\n", "a: [z]\n"),
        ("a: [ ]\n", "a: [ z ]\n"),
        ("a:\n  - x  # x\n", "a:\n  - x  # x\n  - z\n"),
        ("a:\n- x\nb: 1\n", "a:\n- x\n- z\nb: 1\n"),
        ("a: [\n  x,  # x\n]\n", "a: [\n  x,  # x\n  z,\n]\n"),
        ("a: [\n  x  # x\n]\n", "a: [\n  x,  # x\n  z\n]\n"),
    ],
)
def test_item_is_added_in_the_way_of_its_list_and_gone_without_a_trace(before: str, after: str) -> None:
    assert edit.append_item(loaded(before), ("a",), "z") == after
    assert edit.remove_entry(loaded(after), ("a", 1 if "x" in before else 0)) == before


def test_value_is_replaced_under_its_comment_which_keeps_its_column() -> None:
    text = "a:\n  one: all      # why\n  two: 2        # what\n"

    assert edit.set_value(loaded(text), ("a", "one"), ["x"]) == "a:\n  one: [x]      # why\n  two: 2        # what\n"
    longer = edit.set_value(loaded(text), ("a", "one"), "a very long value")
    assert longer.splitlines()[1] == "  one: a very long value  # why"


@pytest.mark.parametrize(
    ("before", "new", "after"),
    [
        ("a:  # why\n  b: 1\n  # more\nc: 2\n", 1, "a: 1  # why\nc: 2\n"),
        ("a: 1  # why\nc: 2\n", {"b": 1}, "a:  # why\n  b: 1\nc: 2\n"),
        ("a: |  # why\n  text\n\nc: 2\n", "x", "a: x  # why\n\nc: 2\n"),
        ("a:\nc: 2\n", "x", "a: x\nc: 2\n"),
        ("a: one\n  two  # why\nc: 2\n", "x\ny\n", "a: |  # why\n  x\n  y\nc: 2\n"),
    ],
)
def test_value_of_another_shape_takes_the_place(before: str, new: Any, after: str) -> None:
    assert edit.set_value(loaded(before), ("a",), new) == after


def test_value_that_is_not_there_yet_is_added() -> None:
    assert edit.set_value(loaded("a: 1\n"), ("tools", "builtin"), ["x"]) == "a: 1\ntools:\n  builtin: [x]\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [("a: &x\n  b: 1\nc: *x\n", ("c",)), ("a: &x\n  b: 1\nc: *x\n", ("a",)), ("a: [&x {b: 1}, *x]\n", ("a", 1))],
)
def test_what_an_alias_shares_is_not_changed_in_one_place(text: str, path: Path) -> None:
    """The other place would change along, unseen."""
    with pytest.raises(ManifestEditError, match=r"has an anchor \(&\) or is an alias"):
        edit.add_entry(loaded(text), path, "new", 1)


def test_anchor_that_is_still_needed_is_not_removed() -> None:
    text = "a: &x 1\nb: *x\n"

    with pytest.raises(ManifestEditError, match="nothing above is marked with the anchor 'x'"):
        edit.remove_entry(loaded(text), ("a",))
    assert edit.remove_entry(loaded(text), ("b",)) == "a: &x 1\n"


@pytest.mark.parametrize("text", ["? a\n: b: 1\n? c\n: 2\n", "a: |\n  b"])
def test_text_that_does_not_allow_for_the_change_is_left_to_its_owner(text: str) -> None:
    """Rather no edit than one that bends what stands beside it."""
    with pytest.raises(ManifestEditError, match="edit the file by hand"):
        edit.add_entry(loaded(text), (), "new", 1)


def refusals() -> Iterator[tuple[str, Any]]:
    start = loaded("a: {b: 1}\nc: [1]\nd: 1\n")
    yield "is there already", lambda: edit.add_entry(start, ("a",), "b", 1)
    yield "is no mapping", lambda: edit.add_entry(start, ("c",), "b", 1)
    yield "is no list", lambda: edit.append_item(start, ("a",), 1)
    yield "a.x is not there", lambda: edit.remove_entry(start, ("a", "x"))
    yield "the top level is not there", lambda: edit.remove_entry(start, ())
    yield r"c\[1\] is not there", lambda: edit.set_value(start, ("c", 1), 1)
    yield r"c\[7\] is not there", lambda: edit.add_entry(start, ("c", 7), "x", 1)
    yield "no number", lambda: edit.add_entry(start, (), "x", float("nan"))
    yield "cannot hold a set", lambda: edit.append_item(start, ("c",), {1})
    yield "must be text", lambda: edit.add_entry(start, (), "x", {1: 1})
    yield "edit the file by hand", lambda: edit.add_entry(start, (), "x", 10**18)
    yield "edit the file by hand", lambda: edit.add_entry(start, (), "x", "\ud800")
    yield "NUL", lambda: edit.add_entry(start, (), "x", "\0")
    yield "merge keys", lambda: edit.add_entry(start, (), "<<", 1)


@pytest.mark.parametrize(("words", "change"), list(refusals()))
def test_what_cannot_be_done_is_refused_in_words(words: str, change: Any) -> None:
    with pytest.raises(ManifestEditError, match=words):
        change()


def test_value_that_is_nested_without_end_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]

    with pytest.raises(ManifestEditError, match="deeper than 32 levels"):
        edit.add_entry(loaded("a: 1\n"), (), "x", value)


def test_file_that_is_json_stays_json() -> None:
    """Whoever makes it with another program goes on reading it with one."""
    document = {"a": {"b": [1, True, None]}, "c": {}}
    for indent in (None, 1, 4):
        text = json.dumps(document, indent=indent)
        added = edit.add_entry(loaded(text), ("a",), "d", {"e": ["x: y", 1], "no": "f"})
        added = edit.append_item(loaded(added), ("a", "b"), "z")
        added = edit.add_entry(loaded(added), ("c",), "g", True)
        assert json.loads(added) == {
            "a": {"b": [1, True, None, "z"], "d": {"e": ["x: y", 1], "no": "f"}},
            "c": {"g": True},
        }
