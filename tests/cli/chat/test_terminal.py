"""``airlab chat`` on a terminal of its own, against a running AirLab: what a person sees and presses."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.chat.talk import configure, prompts
from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, KEYS, ROOT, USE_KEY, Lab, Service, temporary_lab, wait_until
from tests.support.terminal import CTRL_C, CTRL_D, CTRL_J, ENTER, TAB, UP, Terminal, at_terminal

MODELS = {
    "small": {"recommended": True, "description": "Small enough for any machine"},
    "tuned": {"is_finetuned": True, "base_model": "small"},
    "gone": {},
}
DONE = " tokens in "
"""Stands below every answer that is whole."""


def chat(
    lab: Lab, url: str, *arguments: str, columns: int = 80, **environment: str
) -> AbstractContextManager[Terminal]:
    """``airlab chat`` on a terminal."""
    told = {**lab.full_environment, "AIRLAB_PORT": url.rpartition(":")[2], "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "app", "chat", *arguments]
    return at_terminal(command, environment=told, folder=lab.folder, columns=columns)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The real small model, under two names."""
    with temporary_lab("embedded", models=MODELS, missing=("gone",), profile={"max_loaded": 1}) as lab:
        configure(lab, defaults={"temperature": 0})  # by chance it says nothing at all, now and then
        yield lab


@pytest.fixture(scope="module")
def service(lab: Lab) -> Iterator[Service]:
    with lab.serve() as service:
        yield service


@pytest.fixture
def scripted(make_lab: MakeLab) -> Lab:
    """A model that says what it is told, and is told what to say."""
    return make_lab("fake", models={"small": {"context_length": 8192}})


@pytest.mark.parametrize("columns", [80, 120])
def test_menu_stream_and_commands_fill_the_screen_as_they_should(lab: Lab, service: Service, columns: int) -> None:
    with chat(lab, service.url, "--max-tokens", "48", columns=columns) as terminal:
        terminal.until("Enter keeps the current one")
        shown = terminal.lines
        assert shown[0] == f"AirLab at {service.url}"
        assert [line.split()[:2] for line in shown[2:5]] == [["1", "small"], ["2", "tuned"], ["3", "gone"]]
        assert "current, ★ recommended" in shown[2]
        assert ("Small enough for any machine" in shown[2]) == (columns >= 100)
        assert "fine-tune of small" in shown[3]
        assert "no file" in shown[4]

        terminal.type(f"2{ENTER}")
        terminal.until("tuned is ready after ")
        terminal.until_screen("tuned · chat-")
        terminal.type(f"Write one sentence about the sea.{ENTER}")
        everything = terminal.until(DONE)
        answer = everything.partition("> Write one sentence about the sea.\n")[2].partition("\ntuned, ")[0]
        assert len(answer.split()) > 3

        terminal.type(f"/model small{ENTER}")
        terminal.until("small is ready after ")
        terminal.until_screen("small · chat-")
        for typed, expected in [
            ("/model", "● loaded"),
            ("/health", "ok: small is ready, on CPU"),
            ("/stats", "tokens written"),
            ("/mem", "engines"),
            ("/system You are brief.", "the system prompt is set: You are brief."),
            ("/layers", "small: CPU"),
            ("/tools", "15 offered"),
            ("/tools on", "this conversation lets models use tools"),
            ("/thinking", "without thinking aloud"),
            ("/nope", "no command /nope"),
            ("/helth", "did you mean /health?"),
            ("/help", "Ctrl-D leaves."),
        ]:
            terminal.type(f"{typed}{ENTER}")
            terminal.until(expected)
        terminal.until_screen("small · chat-")
        assert service.http.get("/health").json()["model_key"] == "small"

        terminal.type(CTRL_D)
        assert terminal.ended() == 0


def test_slash_commands_work_also_where_a_model_is_asked_for(lab: Lab, service: Service) -> None:
    """A person who does not know what to choose asks for help there first."""
    with chat(lab, service.url) as terminal:
        for typed, expected in [
            ("/help", "Ctrl-D leaves."),
            ("/helth", "did you mean /health?"),
            ("7", "'7' names no"),
        ]:
            terminal.until("Enter keeps the current one): ")
            terminal.clear()
            terminal.type(f"{typed}{ENTER}")
            terminal.until(expected)
        terminal.until("Enter keeps the current one): ")
        terminal.type(f"/quit{ENTER}")
        assert terminal.ended() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(scripted: Lab) -> None:
    gate = scripted.folder / "gate"
    scripted.fault("small", replies=["Once upon a time."], token_gate_file=str(gate))
    with scripted.serve() as service, chat(scripted, service.url, "--session", "stopped") as terminal:

        def last_turn() -> str:
            return str(service.http.get("/sessions/stopped").json()["turns"][-1]["status"])

        for number, line in enumerate(("Tell a story.", "/retry", "/retry"), 1):
            terminal.until_screen("/help")
            terminal.clear()
            terminal.type(f"{line}{ENTER}")
            terminal.until_screen("Once")
            terminal.type(CTRL_C)
            terminal.until("cancelled; /retry asks it again")
            wait_until(lambda: last_turn() == "cancelled", f"turn {number} is cancelled")
        wait_until(lambda: service.model("small")["busy"] == 0, "the model is free")
        gate.touch()
        terminal.type(f"/retry{ENTER}")
        terminal.until(DONE)
        assert last_turn() == "done"
        assert said(service, "stopped") == ["Tell a story.", "Once upon a time."]

        terminal.until_screen("/help")
        terminal.type(CTRL_C)
        terminal.until("Ctrl-D or /quit leaves")
        terminal.type(f"/quit{ENTER}")
        assert terminal.ended() == 0


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[Lab, Service]]:
    """A model that says again what was said to it."""
    with temporary_lab("fake", models={"small": {"context_length": 8192}}) as lab:
        lab.fault("small", echo=True)
        with lab.serve() as service:
            yield lab, service


def test_keys_of_the_line_do_what_keys_do(echo: tuple[Lab, Service]) -> None:
    """History, completion, several lines, paste."""
    lab, service = echo
    with chat(lab, service.url) as terminal:
        terminal.until_screen("/help")
        terminal.type(f"one{CTRL_J}two{ENTER}")
        terminal.until(DONE)
        terminal.paste("three\nfour")
        terminal.until_screen("  four")
        terminal.type(ENTER)
        terminal.until("three four\nsmall, ")  # as Markdown has it: one paragraph
        terminal.type("/heal")
        terminal.until_screen("whether AirLab is well")
        terminal.type(TAB)
        terminal.until_screen("> /health")
        terminal.type(ENTER)
        terminal.until("ok: small is ready")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
    with chat(lab, service.url, "--session", "again") as terminal:
        terminal.until_screen("/help")
        terminal.type(UP)
        terminal.until_screen("> /health")
        terminal.type(ENTER)
        terminal.until("ok: small is ready")

    history = lab.folder / ".local" / "state" / "airlab" / "chat_history"
    assert history.stat().st_mode & 0o077 == 0
    asked = [prompt["messages"][-1]["content"] for prompt in prompts(service)]
    assert [text for text in asked if "What is to do" not in text] == ["one\ntwo", "three\nfour"]


def test_conversation_is_taken_back_retried_copied_found_and_exported(scripted: Lab) -> None:
    scripted.fault("small", replies=[f"Answer {number}." for number in range(1, 9)])
    folder = scripted.folder
    with scripted.serve() as service, chat(scripted, service.url, "--session", "sea") as terminal:

        def press(line: str, expected: str) -> str:
            terminal.until_screen("/help")
            terminal.type(f"{line}{ENTER}")
            return terminal.until(expected)

        press("/undo", "no session 'sea'")
        press("About the sea?", "Answer 1.")
        press("And the waves?", "Answer 2.")
        press("/retry", "Answer 3.")
        press("/undo", "taken back: And the waves?")
        assert said(service, "sea") == ["About the sea?", "Answer 1."]
        press("/name The wide sea", "named The wide sea")
        press("/fork", "you go on in a copy")
        press("And the wind?", "Answer 4.")
        press("/new", "another conversation")
        press("About the hills?", "Answer 5.")
        press("/sessions sea", "/open NUMBER goes on in one of them")
        copied, original = [line.split() for line in terminal.lines if " The wide sea  " in line]
        assert (copied[0], original[0]) == ("1", "2")
        press("/open 2", "The wide sea, 2 messages")
        press("/export talk.md", "written: talk.md")
        press("/export json", "written: sea.json")
        press("/export talk.md", "nothing is overwritten")
        press("/export-ft", "written: sea-training.jsonl, 1 conversation")
        press("/export-ft all every.jsonl", "written: every.jsonl, 3 conversations")
        press("/reset", "what was said stays stored")
        assert said(service, "sea") == []
        press("/quit", "/quit")
        assert terminal.ended() == 0

    assert "About the sea?" in (folder / "talk.md").read_text()
    assert json.loads((folder / "sea.json").read_text())["sessions"][0]["name"] == "The wide sea"
    [line] = (folder / "sea-training.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "messages": [
            {"role": "user", "content": "About the sea?"},
            {"role": "assistant", "content": "Answer 1."},
        ]
    }


def said(service: Service, session_id: str) -> list[str]:
    """The active branch of a conversation."""
    return [message["content"] for message in service.http.get(f"/sessions/{session_id}").json()["messages"]]


def test_file_goes_along_and_what_comes_back_does_not_steer_the_terminal(echo: tuple[Lab, Service]) -> None:
    lab, service = echo
    (lab.folder / "my notes.txt").write_text("buy \x1b]0;owned\x07\x1b[2J\x1b[31mmilk\n")
    with chat(lab, service.url) as terminal:
        terminal.until_screen("/help")
        terminal.type(f"/file my notes.txt{ENTER}")
        terminal.until("my notes.txt (28 B) goes along with your next message")
        terminal.until_screen("1 file")
        terminal.type(f"What is to do?{ENTER}")
        terminal.until("buy milk")
        terminal.until(DONE)
        assert b"owned" not in terminal.written


@pytest.fixture
def writer(scripted: Lab) -> Lab:
    """A model that overwrites a file, and then speaks; it begins once it may."""
    configure(scripted, tools={"builtin": ["write_file"]})
    (scripted.folder / "workspace").mkdir()
    notes(scripted).write_text("old")
    decision = {"tool": "write_file", "arguments": {"path": str(notes(scripted).resolve()), "lines": ["new"]}}
    gate = str(scripted.folder / "gate")
    replies = [json.dumps(decision), '{"tool": "none"}', "It is done."]
    scripted.fault("small", replies=replies * 2, token_gate_file=gate)
    return scripted


def notes(lab: Lab) -> Path:
    return lab.folder / "workspace" / "notes.txt"


def test_call_that_needs_a_yes_asks_for_it_inline(writer: Lab) -> None:
    """Also where a yes was typed before the question: that is no answer to it."""
    with writer.serve() as service, chat(writer, service.url, "--tools") as terminal:
        terminal.until_screen("/help")
        terminal.type(f"Write.{ENTER}")
        wait_until(lambda: service.model("small")["busy"] == 1, "the model is at work")
        terminal.type(f"y{ENTER}y{ENTER}")
        (writer.folder / "gate").touch()
        asked = terminal.until("[y/N, 60 s]")
        assert "→ write_file(path=" in asked
        assert "May it? write_file(path=" in asked
        terminal.type(ENTER)
        assert "✗ write_file  denied" in terminal.until(DONE)
        assert notes(writer).read_text() == "old"

        terminal.until_screen("/help")
        terminal.clear()
        terminal.type(f"Write all the same.{ENTER}")
        terminal.until("[y/N, 60 s]")
        assert notes(writer).read_text() == "old"
        terminal.type(f"y{ENTER}")
        told = terminal.until(DONE)
        assert "✓ write_file  ok" in told
        assert "It is done." in told
        assert notes(writer).read_text().strip() == "new"


def test_answer_comes_although_airlab_was_killed_in_the_middle(make_lab: MakeLab) -> None:
    """It is asked again, under the same key, once AirLab is back."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    lab = make_lab("fake", environment={"AIRLAB_PORT": port})
    gate = lab.folder / "gate"
    lab.fault("small", replies=["Half of it, and the rest."], token_gate_file=str(gate))
    with lab.serve() as service:
        url, talking = service.url, chat(lab, service.url, "--session", "mine")
        with talking as terminal:
            terminal.until_screen("/help")
            terminal.type(f"Hello.{ENTER}")
            terminal.until_screen("Half")
            service.signal(signal.SIGKILL)
            service.wait()
            terminal.until_screen("trying again after")
            gate.touch()
            with lab.serve() as again:
                assert again.url == url
                terminal.until("the answer from its beginning:")
                told = terminal.until(DONE)
                assert "Half of it, and the rest." in told
                turns = again.http.get("/sessions/mine").json()
                assert [message["role"] for message in turns["messages"]] == ["user", "assistant"]
                terminal.type(CTRL_D)
                assert terminal.ended() == 0


def test_airlab_that_is_away_at_the_start_is_waited_for(make_lab: MakeLab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    lab = make_lab("fake", environment={"AIRLAB_PORT": str(port)})
    with chat(lab, f"http://127.0.0.1:{port}") as terminal:
        terminal.until("is `airlab serve` running?; trying again after 0.5 s")
        with lab.serve():
            terminal.until_screen("/help")
            terminal.type(CTRL_D)
            assert terminal.ended() == 0


def test_keys_that_may_less_or_nothing_are_told_so(make_lab: MakeLab) -> None:
    """One that may not switch asks for the model with each message instead."""
    lab = make_lab("fake", models={"small": {}, "other": {}}, environment=KEYS)
    with lab.serve(key=ADMIN_KEY) as service:
        talking = chat(lab, service.url, "--url", service.url, AIRLAB_ADMIN_KEY="", AIRLAB_API_KEY=USE_KEY)
        with talking as terminal:
            terminal.until("Enter keeps the current one")
            terminal.type(f"other{ENTER}")
            terminal.until("other answers from now on")
            terminal.type(f"Hello.{ENTER}")
            terminal.until("other, 8 tokens in")
            terminal.type(f"/layers 0{ENTER}")
            terminal.until("admin")
        assert service.http.get("/health").json()["model_key"] == "small"

        with chat(lab, service.url, AIRLAB_API_KEY="wrong") as terminal:
            assert terminal.ended() == 1
            assert "no key of this AirLab" in terminal.everything
            assert "Traceback" not in terminal.everything
