"""A model's arguments stay arguments, whatever they are: of a URL, of a JSON body, of a program."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tools.base import ToolProblem
from app.tools.worker.templates import cut, fill_argv, fill_json, fill_path, fill_query, names_in, select

NASTY = st.one_of(
    st.text(max_size=40),
    st.text("./\\%2eEfF?#&=:@{}-\r\n\0 ;'\"$`|äÄ\ud800", max_size=12),
)


@given(NASTY, NASTY)
def test_no_argument_changes_the_structure_of_a_url(one: str, other: str) -> None:
    """Neither as a strict server reads it, nor as one that decodes first."""
    values = {"one": one, "other": other}
    try:
        path, query = fill_path("/a/{one}/b-{other}.json", values), fill_query("q={one}", {"more": "{other}"}, values)
    except ToolProblem:
        return
    parts = urlsplit(f"https://example.org:8443{path}?{query}")
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "example.org:8443", "")
    assert [unquote(part) for part in parts.path.split("/")] == ["", "a", one, f"b-{other}.json"]
    assert ".." not in unquote(parts.path).replace("\\", "/").split("/")
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", one), ("more", other)]
    assert path.isascii()
    assert path.isprintable()


@pytest.mark.parametrize("value", ["..", ".", "", "../x", "a/../b", "..\\x", "x/.", "..;a", "a\rb", "\0"])
def test_path_does_not_climb(value: str) -> None:
    with pytest.raises(ToolProblem):
        fill_path("/v1/{id}/x", {"id": value})


def test_missing_argument_leaves_its_pair_out() -> None:
    assert fill_query("", {"a": "{a}", "n": 3, "b": "x{b}"}, {"b": True}) == "n=3&b=xtrue"


def test_body_takes_values_with_their_types() -> None:
    template = {"n": "{n}", "text": "n is {n}", "list": ["{n}", "{gone}"], "gone": "{gone}", "braces": "{{n}}"}

    assert fill_json(template, {"n": {"deep": [1]}}) == {
        "n": {"deep": [1]},
        "text": 'n is {"deep": [1]}',
        "list": [{"deep": [1]}],
        "braces": "{n}",
    }


@given(NASTY)
def test_argument_of_a_program_is_one_argument_and_no_option(value: str) -> None:
    try:
        argv = fill_argv(["tool", "{x}", "--file={x}", "--", "{x}"], {"x": value})
    except ToolProblem:
        assert value.startswith("-") or "\0" in value or not value.isascii()
        return
    assert argv == ["tool", value, f"--file={value}", "--", value]
    assert not argv[1].startswith("-")


def test_dash_is_refused_unless_the_manifest_makes_room_for_it() -> None:
    with pytest.raises(ToolProblem, match="option"):
        fill_argv(["tool", "{x}"], {"x": "-rf"})
    with pytest.raises(ToolProblem, match="option"):
        fill_argv(["tool", "{x}{y}"], {"x": "", "y": "-rf"})
    with pytest.raises(ToolProblem, match="option"):
        fill_argv(["tool", "{x}", "{y}"], {"x": "--", "y": "-rf"})
    assert fill_argv(["tool", "--", "{x}"], {"x": "-rf"}) == ["tool", "--", "-rf"]
    assert fill_argv(["tool", "{x}"], {"x": "-rf"}, free=["x"]) == ["tool", "-rf"]


def test_missing_argument_of_a_program_is_left_out() -> None:
    assert fill_argv(["tool", "{x}", "b"], {}) == ["tool", "b"]


@pytest.mark.parametrize("template", ["{", "}", "{a", "a}", "{a b}", "{}", "{{{"])
def test_single_brace_is_a_mistake(template: str) -> None:
    with pytest.raises(ValueError, match="single"):
        names_in(template)


@pytest.mark.parametrize(("place", "found"), [("a.0.b", 1), ("/a/0/b", 1), ("/x~1y", 2), ("a.0", {"b": 1}), ("x/y", 2)])
def test_part_of_an_answer_is_found(place: str, found: object) -> None:
    assert select({"a": [{"b": 1}], "x/y": 2}, place) == found


@pytest.mark.parametrize("place", ["b", "a.1", "a.-1", "a.x", "a.0.b.c", "/a/²"])
def test_part_that_is_not_there_is_answered_with_what_there_is(place: str) -> None:
    with pytest.raises(ToolProblem) as caught:
        select({"a": [{"b": 1}]}, place)
    assert caught.value.code == "not_in_answer"


def test_what_is_too_long_is_cut_and_marked() -> None:
    assert cut("ä" * 10, 5) == {"content": "ää", "truncated": True}
    assert cut({"a": "b" * 100}, 10) == {"content": '{"a": "bbb', "truncated": True}
    assert cut([1], 10) == {"content": [1]}
