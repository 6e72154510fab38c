"""A turn as it is printed: what stays on the terminal when all is over."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from app.cli.chat.screen import TurnScreen, in_words
from app.client.events import (
    Cut,
    Event,
    Notice,
    Other,
    Reasoning,
    Retrying,
    Token,
    ToolEnded,
    ToolStarted,
    TurnDone,
    TurnOpened,
    Waiting,
)

OPENED = TurnOpened("s", 1, "small")
DONE = TurnDone("s", "small", "CPU", "stop", 20, 50, 70, 2.0, 25.0)
LAST = ["small, 50 tokens in 2.0 s (25/s)", ""]


def printed(*events: Event, width: int = 80) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=24, force_terminal=False)
    with TurnScreen(console) as screen:
        for event in events:
            screen.show(event)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def ended(status: str, result: str) -> ToolEnded:
    return ToolEnded("1", "read_file", '{"path": "/ws/a"}', status, result, "allowed", 0.012, True)


def test_answer_is_printed_as_markdown_with_its_count() -> None:
    assert printed(OPENED, Token("Two **bold**"), Token(" words.\n\nAnd "), Token("more."), DONE) == [
        "Two bold words.",
        "",
        "And more.",
        *LAST,
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_lines_are_no_longer_than_the_screen(width: int) -> None:
    call = ToolStarted("1", "read_file", '{"path": "' + "a" * 400 + '"}')
    lines = printed(OPENED, call, ended("ok", "x" * 400), Token("word " * 100), Notice("n " * 200), DONE, width=width)

    assert max(map(len, lines)) <= width
    assert sum(line.startswith("word") for line in lines) == -(-500 // width)


def test_thinking_is_folded_to_a_line() -> None:
    lines = printed(OPENED, Reasoning("Let me "), Reasoning("see."), Token("Yes."), DONE)

    assert re.fullmatch(r"▸ thought for [\d.]+ m?s, 3 words; /thinking shows them", lines[0])
    assert lines[1:] == ["Yes.", *LAST]


def test_tool_calls_stand_where_they_happened() -> None:
    call = ToolStarted("1", "read_file", '{"path": "/ws/a"}')
    lines = printed(OPENED, Token("Let me look."), call, ended("ok", '{"lines": 1}'), Token("It has one line."), DONE)

    assert lines == [
        "Let me look.",
        '→ read_file(path="/ws/a")',
        "✓ read_file  ok, 12 ms",
        '  {"lines": 1}',
        "",
        "It has one line.",
        *LAST,
    ]


def test_denied_call_is_told_from_one_that_ran() -> None:
    lines = printed(OPENED, ended("denied", "Denied: outside."), ended("error", "no such file"))

    assert lines[0] == "✗ read_file  denied, 12 ms"
    assert lines[2] == "✗ read_file  error, 12 ms"


def test_what_the_user_should_know_is_printed() -> None:
    lines = printed(OPENED, Notice("tools are off"), Cut(4, 900), Token("Yes."), DONE)

    assert lines[:2] == [
        "note: tools are off",
        "note: 4 older messages (900 tokens) were not shown to the model",
    ]


def test_answer_that_is_told_again_says_so() -> None:
    lines = printed(OPENED, Token("Half an"), Retrying("gone", 0.5), OPENED, Token("Whole."), DONE)

    assert lines == ["Half an", "AirLab is back; the answer from its beginning:", "Whole.", *LAST]


def test_answer_that_had_not_begun_is_simply_told() -> None:
    assert printed(Retrying("gone", 0.5), OPENED, Token("Whole."), DONE) == ["Whole.", *LAST]


def test_waiting_and_unknown_events_leave_nothing_behind() -> None:
    assert printed(Waiting("small", "starting", 2), OPENED, Other("colour", {}), Token("Yes."), DONE) == ["Yes.", *LAST]


def test_half_an_answer_stays_when_the_turn_ends_badly() -> None:
    assert printed(OPENED, Token("Half an")) == ["Half an"]


@pytest.mark.parametrize(("reason", "words"), [("length", "cut at max_tokens"), ("tool_limit", "last round of tools")])
def test_answer_that_did_not_end_by_itself_says_why(reason: str, words: str) -> None:
    assert words in printed(OPENED, TurnDone("s", "small", "CPU", reason))[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [('{"a": 1, "b": "x"}', 'a=1, b="x"'), ("{}", ""), ("[1]", "[1]"), ("no json\x1b[2J", "no json")],
)
def test_arguments_are_written_as_a_person_would(arguments: str, words: str) -> None:
    assert in_words(arguments) == words
