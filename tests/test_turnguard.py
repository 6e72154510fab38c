"""A model that asks for the same thing again and again is stopped, and one that learns is not."""

from __future__ import annotations

from typing import Literal

from app.messages import ToolCall, ToolResult
from app.turnguard import TurnGuard


def call(arguments: str, name: str = "read_file") -> ToolCall:
    return ToolCall("c", name, arguments)


def ended(asked: ToolCall, status: Literal["ok", "error", "denied"] = "error") -> ToolResult:
    return ToolResult(asked, status, "{}", "", 0.0)


def test_fault_094_call_that_failed_three_times_is_not_tried_again() -> None:
    guard, same = TurnGuard(), call('{"path": "/a"}')
    for _ in range(3):
        assert guard.why_stopped(same) is None
        guard.note(ended(same))

    assert "Try something else" in (guard.why_stopped(same) or "")
    assert guard.why_stopped(call('{"path": "/b"}')) is None
    assert guard.why_stopped(call('{"path": "/a"}', "list_contents")) is None


def test_the_same_call_in_other_words_is_the_same() -> None:
    guard = TurnGuard()
    for arguments in ('{"a": 1, "b": 2}', '{"b":2,"a":1}', ' {"a":1 , "b":2}'):
        guard.note(ended(call(arguments)))

    assert guard.why_stopped(call('{"b": 2, "a": 1}')) is not None


def test_denied_counts_and_done_does_not() -> None:
    guard, asked = TurnGuard(), call("{}")
    for _ in range(9):
        guard.note(ended(asked, "ok"))
    assert guard.why_stopped(asked) is None
    for _ in range(3):
        guard.note(ended(asked, "denied"))
    assert guard.why_stopped(asked) is not None


def test_what_is_no_json_can_be_compared_too() -> None:
    guard = TurnGuard()
    for text in ("{", "[" * 100_000, '{"path": "\ud800"}', ""):
        for _ in range(3):
            guard.note(ended(call(text)))
        assert guard.why_stopped(call(text)) is not None
    assert guard.why_stopped(call("{{")) is None


def test_call_that_a_person_refused_is_not_asked_about_again() -> None:
    guard, asked = TurnGuard(), call("{}", "delete_file")
    guard.give_up(asked)

    assert guard.why_stopped(asked) is not None
