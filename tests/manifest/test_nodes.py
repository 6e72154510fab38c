"""The YAML dialect: what is refused, what values mean, and where they stand."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from app.manifest.load import parse_manifest
from app.manifest.nodes import MAX_DEPTH, MAX_NODES, Positions, compose
from app.manifest.problems import ManifestProblems, Place, Problem, Source


def refused(data: bytes | str) -> Problem:
    """The only problem of a text that is refused as a whole."""
    with pytest.raises(ManifestProblems) as caught:
        parse_manifest(data.encode() if isinstance(data, str) else data, name="airlab.yaml")
    assert len(caught.value.problems) == 1, caught.value.message
    return caught.value.problems[0]


def where(problem: Problem) -> tuple[int, int, str]:
    return problem.line, problem.column, problem.message


def read(text: str) -> Any:
    root, problems = compose(Source("airlab.yaml", text))
    assert root is not None
    assert problems == []
    return root.value


def noted(text: str) -> list[tuple[int, int, str]]:
    """Mistakes that reading goes on after."""
    root, problems = compose(Source("airlab.yaml", text))
    assert root is not None
    return [where(problem) for problem in problems]


def positions(text: str) -> Positions:
    source = Source("airlab.yaml", text)
    root, _ = compose(source)
    assert root is not None
    return Positions(source, root)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_fault_004_billion_laughs_is_refused_before_it_expands() -> None:
    """Nine levels of nine would be 490 million values, and whoever copies them kills the service."""
    tracemalloc.start()
    try:
        problem = refused(bomb(9))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert where(problem) == (5, 15, f"the file expands to more than {MAX_NODES} nodes")
    assert peak_bytes < 10 * 1024**2


def test_aliases_within_the_budget_are_fine() -> None:
    assert len(read(bomb(3))["a2"]) == 9


def test_the_budget_counts_without_aliases_too() -> None:
    assert f"more than {MAX_NODES} nodes" in refused("a: [" + "1, " * MAX_NODES + "1]").message


@pytest.mark.parametrize(("text", "line", "column"), [("a: &a [*a]", 1, 8), ("a: &a\n  b: {c: *a}", 2, 10)])
def test_an_alias_inside_its_own_anchor_is_refused(text: str, line: int, column: int) -> None:
    assert where(refused(text)) == (line, column, "the anchor 'a' contains itself")


def test_an_alias_of_nothing_is_refused() -> None:
    assert where(refused("a: *q")) == (1, 4, "nothing above is marked with the anchor 'q'")


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "[{a: "])
def test_fault_006_a_hundred_thousand_levels_are_refused_without_a_crash(opening: str) -> None:
    """Loaders that recurse in C die of this without a word."""
    assert refused("a:\n " + opening * 100_000).message == "nested too deep"


def test_as_many_levels_as_allowed_are_fine() -> None:
    assert read("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    assert refused("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH).allowed == "32 levels"


def test_fault_007_duplicate_key_is_refused_with_both_lines() -> None:
    assert noted("policy: 1\nb: 2\npolicy: 3\n") == [(3, 1, "stands twice, on line 1 and again on line 3")]


def test_fault_008_words_that_look_like_booleans_stay_text() -> None:
    """YAML 1.1 made false of Norway; 1.2 does not, and neither may we."""
    text = "{a: no, b: on, c: yes, d: off, e: y, f: tRUE}"

    assert list(read(text).values()) == ["no", "on", "yes", "off", "y", "tRUE"]


@pytest.mark.parametrize("word", ["no", "on", "yes", "off", "'true'"])
def test_fault_008_a_setting_that_wants_a_boolean_names_true_and_false(word: str) -> None:
    problem = refused(f"version: 1\ndefault_model: a\nmodels:\n  a: {{filename: a.gguf, preload: {word}}}\n")

    assert problem.allowed == "true or false"
    assert problem.fix == ("write false" if word in ("no", "off") else "write true")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['id']", "!!str 3", "!x y", "!!binary aGk=", "! z"])
def test_fault_010_tags_are_refused(tag: str) -> None:
    [(line, column, message)] = noted(f"a: {tag}")

    assert (line, column) == (1, 4)
    assert message.endswith("is not allowed")


@pytest.mark.parametrize(
    ("data", "line", "column", "message"),
    [
        (b"a: 1\n---\nb: 2\n", 2, 1, "a second document begins here"),
        ("a: 1\n".encode("utf-16"), 1, 1, "this is UTF-16"),
        ("a: 1\n".encode("utf-16-le"), 1, 2, "a NUL character (U+0000) may not stand in a manifest"),
        (b"a: 1\nb: x\0", 2, 5, "a NUL character (U+0000) may not stand in a manifest"),
        (b"a: 1\nb: \x1b[31m", 2, 4, "the control character U+001B may not stand in a manifest"),
        ("a: 1\nä: ".encode() + b"\xff", 2, 4, "the byte 0xff is no UTF-8"),
        (b"a:\n\tb: 1\n", 2, 1, "a tab may not indent a line or begin a value"),
    ],
)
def test_fault_012_what_is_no_single_utf8_document_is_refused_with_its_place(
    data: bytes, line: int, column: int, message: str
) -> None:
    assert where(refused(data)) == (line, column, message)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: b: c", 1, 5),
        ("a: [1,\n  2\nb: 3\n", 3, 2),
        ("x: 1\na: 'x\n", 2, 4),
        ("a: 1\n b: 2\n", 2, 3),
        ("a: @x", 1, 4),
        ("a: [1,\n\n\n", 1, 6),
    ],
)
def test_bad_syntax_points_at_the_place_and_says_what_to_do(text: str, line: int, column: int) -> None:
    """The end of a file shows nothing: there it is what was left open, or the last thing written."""
    problem = refused(text)

    assert (problem.line, problem.column) == (line, column)
    assert problem.message.startswith("this is not valid YAML: ")
    assert problem.fix


def test_an_unquoted_colon_between_brackets_is_answered_with_the_quotes_it_needs() -> None:
    """A limit of the parser that people will meet: `{url: http://a}`, or an alias such as qwen:7b."""
    problem = refused("a: {url: http://b.example}")

    assert (problem.line, problem.column) == (1, 14)
    assert problem.fix == "between brackets, put quotes around text that contains a colon"


def test_directives_are_refused() -> None:
    assert where(refused("# x\n%YAML 1.1\n---\na: no")) == (2, 1, "a line may not begin with %")


def test_merge_keys_are_refused() -> None:
    """They were dropped from YAML, and hide from the reader what a section says."""
    text = "a: &a {x: 1}\nb:\n  <<: *a\n"

    assert noted(text) == [(3, 3, "merge keys (<<) are not allowed")]


@pytest.mark.parametrize("key", ["1", "true", "null", "~", "1.5", "[a]", "{a: b}", "? [a]\n", "*x "])
def test_keys_that_are_not_text_are_refused(key: str) -> None:
    [(line, _, message)] = noted(f"a: &x b\n{key}: 1\n")

    assert (line, message) == (2, "a key must be text")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("8192", 8192),
        ("-1", -1),
        ("0", 0),
        ("0.7", 0.7),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("'8192'", "8192"),
        ('"a\\tb"', "a\tb"),
        ("012", "012"),
        ("0x1f", "0x1f"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("22:22", "22:22"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("2024-01-01", "2024-01-01"),
        ("9" * 5000, "9" * 5000),
        ("|\n  x\n  y", "x\ny"),
        (">-\n  x\n  y", "x y"),
    ],
)
def test_scalars_mean_what_people_read(written: str, value: object) -> None:
    """What YAML readers disagree about stays text; the schema then says what it wants instead."""
    result = read(f"a: {written}")["a"]

    assert result == value
    assert type(result) is type(value)


def test_nul_written_as_an_escape_is_refused() -> None:
    assert noted('a: "x\\0"') == [(1, 4, "text may not contain NUL")]


def test_positions_in_block_style() -> None:
    found = positions("# head\nserver:\n  port:   8080  # web\n  hosts:\n    - a\n    - 'b c'\n")

    assert found.key(("server",)) == Place(2, 1, 6)
    assert found.value(("server",)) == Place(3, 3, 19)
    assert found.key(("server", "port")) == Place(3, 3, 4)
    assert found.value(("server", "port")) == Place(3, 11, 4)
    assert found.value(("server", "hosts", 1)) == found.key(("server", "hosts", 1)) == Place(6, 7, 5)


def test_positions_in_flow_style() -> None:
    found = positions('{server: {port: 8080, "ho\\u0073ts": [a, b]},\n q: 1}')

    assert found.value(("server",)) == Place(1, 10, 34)
    assert found.value(("server", "port")) == Place(1, 17, 4)
    assert found.key(("server", "hosts")) == Place(1, 23, 12)
    assert found.value(("server", "hosts", 1)) == Place(1, 41, 1)
    assert found.key(("q",)) == Place(2, 2, 1)


def test_positions_count_characters_whatever_ends_the_lines() -> None:
    """Editors do not count U+2028 as a line break, YAML 1.1 does."""
    found = positions("ä😀: 'ö\u2028'\r\nb: x\rc: 3")

    assert found.value(("ä😀",)) == Place(1, 5, 4)
    assert found.value(("b",)) == Place(2, 4, 1)
    assert found.value(("c",)) == Place(3, 4, 1)


def test_positions_of_what_is_empty_or_missing_are_those_of_the_key() -> None:
    found = positions("# head\na:\n  b:\n")

    assert found.value(("a", "b")) == found.key(("a", "b")) == Place(3, 3, 1)
    assert found.value(("a", "c")) == found.key(("a", "c")) == Place(2, 1, 1)
    assert found.value(("x",)) == Place(1, 1, 1)
    assert not found.has(("a", "c"))


def test_positions_within_an_alias_are_those_of_its_anchor() -> None:
    """That is the line to change."""
    found = positions("a: &x {b: 1}\nc: *x\n")

    assert found.value(("c",)) == Place(2, 4, 2)
    assert found.value(("c", "b")) == Place(1, 11, 1)
