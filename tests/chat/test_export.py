"""Exports: what is in them, and what is not unless asked for."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from app.chat.export import Conversation, Format, Session, Shown, between, closing, opening, parts, rendered
from app.messages import Message, ToolCall

USER, CALLS = Message("user", "When?"), (ToolCall("c1", "clock", '{"zone": "UTC"}'),)
ROUND = (Message("assistant", "", CALLS, reasoning="I look."), Message("tool", '{"time": 1}', tool_call_id="c1"))
ANSWER = Message("assistant", "At ``` one.\u2028", reasoning="It is one.")
ALL = (USER, *ROUND, ANSWER)
MARKS = {"tools": "clock", "reasoning": "It is one.", "system": "Be exact."}

FINE_TUNING = {
    "type": "object",
    "required": ["messages"],
    "additionalProperties": False,
    "properties": {
        "messages": {
            "type": "array",
            "minItems": 2,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "additionalProperties": False,
                "properties": {
                    "role": {"enum": ["system", "user", "assistant", "tool"]},
                    "content": {"type": "string"},
                    "reasoning_content": {"type": "string"},
                    "tool_call_id": {"type": "string"},
                    "tool_calls": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["id", "type", "function"],
                            "additionalProperties": False,
                            "properties": {
                                "id": {"type": "string"},
                                "type": {"const": "function"},
                                "function": {
                                    "type": "object",
                                    "required": ["name", "arguments"],
                                    "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
"""What OpenAI's and Hugging Face's tools take as a conversation to train on."""


def session(*branches: tuple[Message, ...], name: str | None = "A name") -> Session:
    told = [Conversation(branch, "Be exact.", 10 * at, at == len(branches)) for at, branch in enumerate(branches, 1)]
    return Session("s", name, 0, 1000, told)


def line(shown: Shown, *messages: Message) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rendered(session(messages), shown, "jsonl"))
    return found


def test_a_line_for_fine_tuning_holds_roles_and_texts_and_nothing_else() -> None:
    told = rendered(session(ALL), Shown(), "jsonl")

    assert (
        told
        == json.dumps(
            {"messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": ANSWER.content}]},
            ensure_ascii=False,
        )
        + "\n"
    )


@pytest.mark.parametrize("wanted", range(8))
def test_every_choice_gives_lines_of_the_format(wanted: int) -> None:
    shown = Shown(bool(wanted & 1), bool(wanted & 2), bool(wanted & 4))

    jsonschema_rs.validate(FINE_TUNING, line(shown, *ALL))


@pytest.mark.parametrize("form", ["jsonl", "json", "markdown", "text"])
@pytest.mark.parametrize("wanted", ["tools", "reasoning", "system"])
def test_what_was_not_asked_for_is_not_told(form: Format, wanted: str) -> None:
    told = rendered(session(ALL), Shown(**{wanted: True}), form)

    assert {name for name, mark in MARKS.items() if mark in told} == {wanted}


def test_tool_rounds_are_in_openais_format() -> None:
    assert line(Shown(tools=True), *ALL)["messages"][1:3] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
            ],
        },
        {"role": "tool", "content": '{"time": 1}', "tool_call_id": "c1"},
    ]


def test_questions_in_a_row_are_one_as_templates_want_it() -> None:
    roles = [message["role"] for message in line(Shown(), USER, USER, ANSWER)["messages"]]

    assert roles == ["user", "assistant"]


def test_each_branch_is_a_line_and_lines_hold_no_line_break() -> None:
    """U+2028 breaks lines for str.splitlines, and not for JSON lines: those end at \\n alone."""
    told = rendered(session(ALL, (USER, Message("assistant", "a\nb"))), Shown(), "jsonl")

    assert [json.loads(part)["messages"][-1]["content"] for part in told.split("\n")[:-1]] == [ANSWER.content, "a\nb"]


def test_sessions_together_are_one_valid_file() -> None:
    told = [rendered(session(ALL), Shown(), "json")] * 2
    whole = json.loads(opening("json") + between("json").join(told) + closing("json"))

    assert [found["session_id"] for found in whole["sessions"]] == ["s", "s"]
    assert json.loads(opening("json") + closing("json")) == {"sessions": []}


def test_markdown_keeps_fences_in_a_fence() -> None:
    told = rendered(
        session((USER, ROUND[0], Message("tool", "```\nx", tool_call_id="c1"), ANSWER)), Shown(tools=True), "markdown"
    )

    assert "````\n```\nx\n````" in told
    assert told.startswith("# A name\n")


def test_pages_of_several_branches_tell_them_apart() -> None:
    text, page = (rendered(session(ALL, ALL), Shown(), form) for form in ("text", "markdown"))

    assert "\n\n[branch 1, up to message 10]\n\n" in text
    assert "\n\n[branch 2, up to message 20, the active one]\n\n" in text
    assert "\n\n## Branch 1, up to message 10\n\n" in page
    assert "\n\n## Branch 2, up to message 20, the active one\n\n" in page
    assert rendered(session(ALL, name=None), Shown(), "text").startswith("s\n")
    assert "branch" not in rendered(session(ALL), Shown(), "text")


def test_json_names_each_branch_and_training_data_none() -> None:
    both = session(ALL, ALL)
    told = json.loads(rendered(both, Shown(), "json"))["conversations"]

    assert [[found[name] for name in ("branch", "message_id", "active")] for found in told] == [
        [1, 10, False],
        [2, 20, True],
    ]
    assert all(set(json.loads(row)) == {"messages"} for row in rendered(both, Shown(), "jsonl").split("\n")[:-1])


@pytest.mark.parametrize(("form", "count"), [("jsonl", 3), ("json", 1), ("markdown", 1), ("text", 1)])
def test_lines_of_a_session_are_rendered_one_at_a_time_and_come_to_the_same(form: Format, count: int) -> None:
    """Branches may share a long text, and each line of an export repeats it."""
    several = session(*((USER, Message("assistant", str(n))) for n in range(3)))
    pieces = [rendered(part, Shown(), form) for part in parts(several, form)]

    assert len(pieces) == count
    assert "".join(pieces) == rendered(several, Shown(), form)
