"""Whatever happens to a valid manifest in an editor: a manifest again, or problems that can be found and repaired."""

from __future__ import annotations

import re

from hypothesis import event, given, settings

from app.manifest.load import parse_manifest
from app.manifest.problems import ManifestProblems
from tests.manifest.clumsy import EXAMPLES, RICH, SHIPPED, clumsy_edits

_LINE_BREAK = re.compile(r"\r\n|\n|\r")


def problems_of(text: str) -> ManifestProblems | None:
    """Any exception but this one ends the test."""
    try:
        parse_manifest(text.encode(), name="airlab.yaml")
    except ManifestProblems as refused:
        return refused
    return None


def test_manifests_that_are_edited_here_are_valid() -> None:
    assert [problems_of(text) for text in (SHIPPED, RICH)] == [None, None]


@settings(max_examples=EXAMPLES, deadline=None)
@given(clumsy_edits())
def test_every_problem_has_a_place_inside_the_file_and_a_next_step(text: str) -> None:
    refused = problems_of(text)
    event("valid" if refused is None else "refused")
    if refused is None:
        return
    lines = _LINE_BREAK.split(text)
    assert refused.problems
    for problem in refused.problems:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.fix, problem
        if text:
            assert f"airlab.yaml:{problem.line}:{problem.column}: " in refused.message


@settings(max_examples=EXAMPLES, deadline=None)
@given(clumsy_edits())
def test_what_is_said_of_a_file_can_be_printed_and_is_the_same_each_time(text: str) -> None:
    """A terminal obeys what it is shown; and who repairs one of two problems looks for the other one again."""
    refused, again = problems_of(text), problems_of(text)
    if refused is None or again is None:
        assert refused is again
        return
    assert refused.message == again.message
    assert [line for line in refused.message.split("\n") if not line.isprintable()] == []
