"""The importable client against a running AirLab: each method does what its docstring says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.client.client import Client
from app.client.events import ApprovalAsked, Event, Notice, Token, ToolEnded, TurnDone, TurnOpened
from app.errors import AnsweredError, ServerAwayError
from tests.chat.talk import configure
from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, KEYS, USE_KEY, Lab, Service, temporary_lab, wait_until


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A model that says again what was said to it, and one that cannot start."""
    with temporary_lab("fake", models={"small": {}, "gone": {}}, missing=("gone",), environment=KEYS) as lab:
        lab.fault("small", echo=True)
        yield lab


@pytest.fixture(scope="module")
def service(lab: Lab) -> Iterator[Service]:
    with lab.serve(key=ADMIN_KEY) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, USE_KEY, admin_key=ADMIN_KEY, patience_s=0) as client:
        yield client


def words(events: Iterator[Event]) -> str:
    """The answer of a turn that must end well."""
    told = list(events)
    assert any(isinstance(event, TurnOpened) for event in told)
    assert isinstance(told[-1], TurnDone)
    return "".join(event.text for event in told if isinstance(event, Token))


def test_message_is_answered_by_typed_events(client: Client) -> None:
    told = list(client.send_message("One two three", session_id="typed", max_tokens=16))
    done = told[-1]

    assert isinstance(done, TurnDone)
    assert (done.session_id, done.model, done.finish_reason, done.tokens_generated) == ("typed", "small", "stop", 3)
    assert [event.text for event in told if isinstance(event, Token)] == ["One", " two", " three"]


def test_conversation_goes_on_by_its_id_and_is_seen_whole(client: Client) -> None:
    for text in ("first", "second"):
        assert words(client.send_message(text, session_id="goes/on")) == text
    found = client.session("goes/on")

    assert [message.content for message in found.messages] == ["first", "first", "second", "second"]
    assert [turn["status"] for turn in found.turns] == ["done", "done"]
    listed = next(session for session in client.sessions() if session.session_id == "goes/on")
    assert (listed.message_count, listed.name) == (4, "first")


def test_answers_are_made_again_edited_taken_back_and_chosen(client: Client) -> None:
    assert words(client.send_message("wind", session_id="tree")) == "wind"
    assert words(client.regenerate("tree")) == "wind"
    first = client.session("tree").messages[0]
    assert words(client.edit("tree", first.id, "rain")) == "rain"
    assert [message.content for message in client.session("tree").messages] == ["rain", "rain"]

    whole = client.session("tree", whole_tree=True).messages
    assert sorted(message.content for message in whole) == ["rain", "rain", "wind", "wind", "wind"]
    chosen = client.switch_branch("tree", first.id)
    assert [message.content for message in chosen.messages] == ["wind", "wind"]
    undone = client.undo("tree")
    assert (undone.undone, undone.messages) == ("wind", ())
    client.reset("tree")


def test_turn_that_was_broken_off_is_resumed(make_lab: MakeLab) -> None:
    lab = make_lab("fake")
    gate = lab.folder / "gate"
    lab.fault("small", replies=["One two three."], token_gate_file=str(gate))
    with lab.serve() as service, Client(service.url, patience_s=0) as client:
        with closing(client.send_message("Go on.", session_id="cut")) as events:  # type: ignore[type-var] # a generator
            assert any(isinstance(event, Token) for event in events)
        wait_until(lambda: client.session("cut").turns[-1]["status"] == "cancelled", "the turn is cancelled")
        gate.touch()

        assert words(client.resume("cut")) == "One two three."


def test_sessions_are_made_named_found_copied_and_deleted(client: Client) -> None:
    made = client.create_session("kept", name="About boats", pinned=True)
    assert words(client.send_message("sail", session_id="kept")) == "sail"
    assert [session.session_id for session in client.sessions(query="boats")] == ["kept"]
    assert client.fork_session("kept", new_id="copy").session_id == "copy"
    assert "kept" in [session.session_id for session in client.sessions(pinned=True)]
    changed = client.change_session("kept", name="About ships", version=client.session("kept").session.version)
    assert (changed.name, changed.version > made.version) == ("About ships", True)
    with pytest.raises(AnsweredError) as late:
        client.change_session("kept", name="About rafts", version=made.version)
    assert (late.value.status, late.value.code) == (412, "precondition_failed")
    client.delete_session("copy")
    with pytest.raises(AnsweredError) as gone:
        client.session("copy")
    assert (gone.value.status, gone.value.code) == (404, "session_not_found")


def test_every_page_of_sessions_is_read(client: Client) -> None:
    for number in range(60):
        client.create_session(f"page-{number}")

    assert len([s for s in client.sessions() if s.session_id.startswith("page-")]) == 60


def test_training_data_is_written_whole_or_not_at_all(client: Client, tmp_path: Path) -> None:
    assert words(client.send_message("tide", session_id="ft")) == "tide"
    file = tmp_path / "data.jsonl"
    file.write_text("before")

    assert client.export_for_finetuning(file, ["ft"]) == 1
    [line] = file.read_text().splitlines()
    pair = [{"role": "user", "content": "tide"}, {"role": "assistant", "content": "tide"}]
    assert json.loads(line) == {"messages": pair}
    with pytest.raises(AnsweredError):
        client.export_for_finetuning(file, ["no such session"])
    assert file.read_text() == f"{line}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    assert "tide" in b"".join(client.export(["ft"], format="text")).decode()


def test_models_are_shown_and_switched_and_settings_read_and_set(client: Client) -> None:
    small, gone = client.models()
    assert (small.key, small.current, small.exists) == ("small", True, True)
    assert (gone.key, gone.current, gone.exists) == ("gone", False, False)
    assert client.switch_model("small").model_key == "small"
    assert client.health().loaded is True
    assert "fits" in (client.fit("small") or {})
    assert client.fit("nope") is None
    with pytest.raises(AnsweredError) as missing:
        client.switch_model("gone")
    assert (missing.value.status, missing.value.code) == (404, "model_not_found")

    assert client.send_command("system", "Be brief.").current_value == "Be brief."
    assert client.send_command("layers").message
    with pytest.raises(AnsweredError) as refused:
        client.send_command("colour", "red")
    assert refused.value.status == 400


def test_refusal_of_a_turn_is_raised_with_airlabs_words(client: Client) -> None:
    with pytest.raises(AnsweredError) as unknown:
        list(client.send_message("Hello", model="nope"))
    assert (unknown.value.status, unknown.value.code) == (404, "model_not_found")
    with pytest.raises(AnsweredError) as wrong:
        list(client.send_message("Hello", temperature=9))
    assert wrong.value.status == 400


def test_turn_that_fails_after_it_began_is_raised_and_not_retried(make_lab: MakeLab) -> None:
    lab = make_lab("fake")
    lab.fault("small", status=500)
    with lab.serve() as service, Client(service.url) as client, pytest.raises(AnsweredError) as failed:
        list(client.send_message("Hello", session_id="fails"))

    assert failed.value.status is None


def test_notice_and_key_errors_are_told(client: Client, service: Service) -> None:
    told = list(client.send_message("Hello", session_id="tools", enable_tools=True, tool_choice="none"))
    assert isinstance(told[-1], TurnDone)
    assert all(event.message for event in told if isinstance(event, Notice))
    with Client(service.url, "wrong", patience_s=0) as stranger, pytest.raises(AnsweredError) as refused:
        stranger.models()
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    with Client(service.url, USE_KEY, patience_s=0) as user, pytest.raises(AnsweredError) as forbidden:
        user.send_command("layers", 0)
    assert forbidden.value.status == 403


def test_call_that_waits_is_seen_and_answered(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {"tool_mode": "guided", "context_length": 4096}})
    configure(lab, tools={"builtin": ["write_file"]})
    notes = lab.folder / "workspace" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("old")
    decision = {"tool": "write_file", "arguments": {"path": str(notes.resolve()), "lines": ["new"]}}
    lab.fault("small", replies=[json.dumps(decision), '{"tool": "none"}', "Done."] * 2)
    with lab.serve() as service, Client(service.url, patience_s=0) as client:
        for grant, status, left in ((False, "denied", "old"), (True, "ok", "new")):
            ended = []
            for event in client.send_message("Write.", enable_tools=True, approvals=True):
                if isinstance(event, ApprovalAsked):
                    assert [approval.id for approval in client.approvals()] == [event.id]
                    assert client.answer_approval(event.id, grant=grant)
                    assert not client.answer_approval(event.id, grant=grant)
                elif isinstance(event, ToolEnded):
                    ended.append(event.status)

            assert ended == [status]
            assert notes.read_text().strip() == left


def test_nobody_there_is_said_in_a_sentence() -> None:
    with (
        Client("http://127.0.0.1:1", patience_s=0) as client,
        pytest.raises(ServerAwayError, match="no AirLab answers"),
    ):
        list(client.send_message("Hello"))
