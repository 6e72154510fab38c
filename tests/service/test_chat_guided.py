"""The tool loop on engines that really generate: a model whose template knows no tools calls them under a grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chat.talk import Event, configure, counted_tokens, require_sound_store, said, session, streamed, visible
from tests.conftest import REAL_ENGINES
from tests.support.service import EngineKind, Lab, Service, temporary_lab

LIST, READ, TIME, WHERE = "list_contents", "read_file", "get_current_time", "get_current_directory"
QUESTION = "what is in the workspace?"


@dataclass(frozen=True)
class Room:
    """A running service and its workspace."""

    lab: Lab
    service: Service
    workspace: Path


@pytest.fixture(scope="module", params=REAL_ENGINES)
def room(request: pytest.FixtureRequest) -> Iterator[Room]:
    """A workspace with two files; tests keep to sessions of their own."""
    kind: EngineKind = request.param
    with temporary_lab(kind, models={"small": {"context_length": 4096}}) as lab:
        configure(lab, tools={"builtin": [LIST, READ, TIME, WHERE]}, chat={"max_tool_iterations": 2})
        workspace = lab.folder / "workspace"
        workspace.mkdir()
        for name in ("notes.txt", "plan.md"):
            (workspace / name).write_text(f"this is {name}")
        with lab.serve() as service:
            yield Room(lab, service, workspace)
            require_sound_store(lab)


def names(events: list[Event]) -> list[str]:
    """What happened, in order; tokens in a row as one."""
    told = [name for name, _ in events if name != "waiting"]
    return [name for index, name in enumerate(told) if index == 0 or name != "token" or told[index - 1] != "token"]


def test_forced_call_really_runs_and_its_result_names_the_files(room: Room) -> None:
    events = streamed(
        room.service, QUESTION, session_id="forced", enable_tools=True, tool_choice=LIST, temperature=0, max_tokens=8
    )

    assert names(events)[:3] == ["turn", "tool_start", "tool_result"]
    assert names(events)[-2:] == ["token", "done"]
    result = next(data for name, data in events if name == "tool_result")
    assert (result["name"], result["status"], result["ran"]) == (LIST, "ok", True)
    assert json.loads(result["arguments"])["path"] == str(room.workspace)
    assert json.loads(result["result"])["items"] == ["notes.txt", "plan.md"]
    shown = "".join(data["text"] for name, data in events if name == "token")
    assert visible(room.service, "forced") == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": shown},
    ]


def test_second_forced_call_goes_on_in_the_same_conversation(room: Room) -> None:
    more = {"session_id": "two", "enable_tools": True, "max_tokens": 8, "temperature": 0}
    first = said(room.service, QUESTION, tool_choice=LIST, **more)
    second = said(room.service, "And the time?", tool_choice=TIME, **more)

    assert (first["tool_calls"][0]["name"], second["tool_calls"][0]["name"]) == (LIST, TIME)
    rounds = [message for message in session(room.service, "two")["messages"] if message["role"] == "tool"]
    assert len(rounds) == len(first["tool_calls"]) + len(second["tool_calls"])
    assert second["tokens_input"] > first["tokens_input"]


def test_required_calls_one_of_them(room: Room) -> None:
    answer = said(
        room.service,
        QUESTION,
        session_id="required",
        enable_tools=True,
        tool_choice="required",
        max_tokens=8,
        temperature=0,
    )

    assert answer["tool_calls"][0]["name"] in {LIST, READ, TIME, WHERE}
    assert answer["response"]
    assert answer["notices"] == []


def test_none_calls_nothing(room: Room) -> None:
    answer = said(
        room.service, QUESTION, session_id="none", enable_tools=True, tool_choice="none", max_tokens=8, temperature=0
    )

    assert (answer["tool_calls"], answer["tools_used"], answer["notices"]) == ([], [], [])
    assert answer["response"]


def test_choice_is_left_to_the_model_and_the_turn_ends_well(room: Room) -> None:
    """Whether a small model calls a tool is its own affair; nothing it does is an error."""
    for number, text in enumerate(["Hello!", QUESTION]):
        answer = said(room.service, text, session_id=f"auto {number}", enable_tools=True, max_tokens=8, temperature=0)
        assert answer["response"]
        assert answer["finish_reason"] in {"stop", "length", "tool_limit"}
        assert {call["status"] for call in answer["tool_calls"]} <= {"ok", "error", "denied"}


def test_length_of_a_prompt_with_rounds_is_foretold_to_a_few_tokens(room: Room) -> None:
    """What a budget counts is what the model is shown, calls and results in words included."""
    beside = []
    for _ in range(3):
        more = {"enable_tools": True, "tool_choice": LIST, "temperature": 0, "max_tokens": 8}
        answer = said(room.service, QUESTION, session_id="counted", **more)
        beside.append(answer["tokens_input"] - counted_tokens(room.lab, "counted"))

    print("tokens beside those that were counted, turn by turn:", beside)
    assert 0 < beside[0] < 40, "the system prompt, and what the template adds"
    assert max(beside) - min(beside) <= 6


def test_tokens_generated_are_those_of_every_round(room: Room) -> None:
    events = streamed(
        room.service, QUESTION, session_id="n", enable_tools=True, tool_choice=LIST, max_tokens=8, temperature=0
    )

    done = events[-1][1]
    assert done["tokens_generated"] > sum(1 for name, _ in events if name == "token")
    assert done["tokens_total"] == done["tokens_input"] + done["tokens_generated"]
