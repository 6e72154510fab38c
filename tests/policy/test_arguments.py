"""What a model writes as arguments, and what it is told."""

from __future__ import annotations

import json

import pytest

from app.policy.arguments import read_arguments
from app.tools.base import ToolProblem, ToolSpec, discover, tool

TOOLS = discover()


@tool(risk="read")
def all_kinds(flag: bool, count: int, share: float = 1.0, words: list[str] = ()) -> None:  # type: ignore[assignment] # never called
    """Take everything. flag: f. count: c. share: s. words: w."""


def problem_of(spec: ToolSpec, text: str) -> ToolProblem:
    with pytest.raises(ToolProblem) as caught:
        read_arguments(spec, text)
    caught.value.message.encode()
    return caught.value


def test_arguments_that_fit_come_out_as_values() -> None:
    text = '{"flag": true, "count": 2, "share": 3, "words": ["a"]}'

    assert read_arguments(all_kinds.spec, text) == {"flag": True, "count": 2, "share": 3, "words": ["a"]}


@pytest.mark.parametrize("text", ["", "{}", '{"timezone": null}'])
def test_nothing_and_null_mean_the_default(text: str) -> None:
    """Models write null for what they leave out."""
    assert read_arguments(TOOLS["get_current_time"], text) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ('{"path": "/a', "not valid JSON"),
        ("[]", "no JSON object"),
        ('"x"', "no JSON object"),
        ("[" * 60_000, "not valid JSON"),
        ('{"path": ' + "[" * 50_000, "not valid JSON"),
        ('{"path": NaN}', "NaN"),
        ('{"path": "/a", "path": "/b"}', "twice"),
        ('{"path": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"path": "' + "a" * 70_000 + '"}', "longer than 64 KiB"),
        ("{}", "`path` is missing"),
        ('{"path": null}', "`path` is missing"),
        ('{"path": 7}', "`path` must be a text"),
        ('{"pth": "/a"}', "did you mean `path`?"),
        ('{"path": "/a", "show_hidden": "yes"}', "`show_hidden` must be true or false"),
        ('{"path": "/a", "show_hidden": 1}', "`show_hidden` must be true or false"),
        ('{"path": "/a", "\\ud800": 1}', "is not known"),
    ],
)
def test_fault_094_arguments_that_do_not_fit_are_explained(text: str, words: str) -> None:
    problem = problem_of(TOOLS["list_contents"], text)

    assert problem.code == "invalid_arguments"
    assert words in problem.message


def test_every_fault_is_named_and_the_usage_with_them() -> None:
    message = problem_of(all_kinds.spec, '{"flag": 1, "count": true, "words": [1], "x": 0}').message

    assert "`flag` must be true or false" in message
    assert "`count` must be a whole number" in message
    assert "`words` must be a list of texts" in message
    assert "`x` is not known" in message
    assert message.endswith("It takes flag, count, share (optional), words (optional).")


@pytest.mark.parametrize("path", ["a.txt", "~", "", ".", "/ws/../etc", "/a\\u0000b", "/a\\nb", "/a\\udcff"])
def test_fault_073_ill_formed_path_is_an_error_with_a_code_of_its_own(path: str) -> None:
    assert problem_of(TOOLS["read_file"], f'{{"path": "{path}"}}').code == "invalid_path"


@pytest.mark.parametrize("lines", ['["a", "b"]', '"a"', "[]"])
def test_one_line_may_stand_for_a_list_of_lines(lines: str) -> None:
    """Models forget the brackets."""
    given = read_arguments(TOOLS["write_file"], f'{{"path": "/a", "lines": {lines}}}')

    assert given["lines"] == json.loads(lines)


@pytest.mark.parametrize("lines", ["7", "true", "[1]", '{"a": "b"}'])
def test_what_is_neither_is_named_as_both(lines: str) -> None:
    message = problem_of(TOOLS["write_file"], f'{{"path": "/a", "lines": {lines}}}').message

    assert "`lines` must be a list of texts or a text" in message


def test_longer_arguments_are_read_where_somebody_says_so() -> None:
    """What is written into a file is among the arguments."""
    text = '{"path": "/a", "lines": "' + "x" * 100_000 + '"}'

    assert "longer than 64 KiB" in problem_of(TOOLS["write_file"], text).message
    assert len(read_arguments(TOOLS["write_file"], text, limit_bytes=len(text))["lines"]) == 100_000
