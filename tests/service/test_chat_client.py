"""The documented client, which posts all that it holds every time: nothing is stored twice, and both hold the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chat.talk import client, configure, prompts, require_sound_store, session, visible
from tests.conftest import MakeLab
from tests.support.service import BOUND_S, Lab, Service, wait_until

TOOLS: dict[str, Any] = {"builtin": ["list_contents", "get_current_time"]}
LIST = "list_contents"


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """The scripted engine, and a workspace with a file."""
    lab = make_lab("fake", models={"small": {"context_length": 8192}})
    configure(lab, tools=TOOLS)
    workspace(lab).mkdir()
    (workspace(lab) / "notes.txt").write_text("hello")
    return lab


def workspace(lab: Lab) -> Path:
    return lab.folder / "workspace"


def seen(service: Service) -> list[list[dict[str, Any]]]:
    """What the model was shown, prompt by prompt, without the system prompt."""
    return [prompt["messages"][1:] for prompt in prompts(service)]


@contextmanager
def gives_up(service: Service, talk: Any) -> Iterator[None]:
    """Meanwhile the client waits for an answer only until the model has begun one."""

    def post(path: str, body: dict[str, object], **_: object) -> Any:
        with service.asked(path, body):
            service.engine().ask("/fake/active?is=1")
        raise TimeoutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(talk.say.__globals__, "post", post)
        yield


def holds_what_is_stored(service: Service, conversation: Any) -> bool:
    return bool(visible(service, conversation.session_id) == conversation.messages)


def test_ten_turns_are_one_branch_and_the_model_sees_all_of_it(lab: Lab) -> None:
    lab.fault("small", replies=[f"answer {number}" for number in range(10)])
    with lab.serve() as service:
        talk = client(service, "mine", max_tokens=16)
        for number in range(10):
            assert talk.say(f"question {number}") == f"answer {number}"
            assert holds_what_is_stored(service, talk)
            assert seen(service)[-1] == talk.messages[:-1]

    require_sound_store(lab)


def test_ten_turns_with_tools_hold_the_rounds_besides(lab: Lab) -> None:
    decision = {"tool": LIST, "arguments": {"path": str(workspace(lab))}}
    with_tool = [decision, {"tool": "none"}, "listed"]
    lab.fault("small", replies=[reply for _ in range(5) for reply in [*with_tool, "plain"]])
    with lab.serve() as service:
        talk = client(service, "mine", max_tokens=16)
        for number in range(10):
            forced = {"enable_tools": True, "tool_choice": LIST} if number % 2 == 0 else {}
            assert talk.say(f"question {number}", **forced) == ("listed" if forced else "plain")
            assert holds_what_is_stored(service, talk)

        stored = session(service, "mine")["messages"]
        assert [message["content"] for message in stored if message["role"] == "tool"] == [
            '{"items": ["notes.txt"], "total_items": 1}'
        ] * 5
        assert len(stored) == 20 + 5 * 2

    require_sound_store(lab)


@pytest.mark.parametrize("turn", [0, 4])
@pytest.mark.parametrize("same_words", [True, False], ids=["asked-again", "other-words"])
def test_client_that_gives_up_in_the_middle_goes_on_as_if_nothing_was(lab: Lab, turn: int, same_words: bool) -> None:
    gate = lab.folder / "gate"
    lab.fault("small", starts=[{"token_gate_file": str(gate), "echo": True}])
    with lab.serve() as service:
        gate.touch()
        talk = client(service, "mine", max_tokens=16)
        for number in range(turn):
            talk.say(f"question {number} of these")
        gate.unlink()

        with gives_up(service, talk), pytest.raises(TimeoutError):
            talk.say("nobody answers this")
        wait_until(lambda: session(service, "mine")["turns"][-1]["status"] == "cancelled", "the turn is cancelled")
        gate.touch()
        talk.say("nobody answers this" if same_words else "but this one")

        assert holds_what_is_stored(service, talk)
        assert [message["role"] for message in talk.messages[2 * turn :]] == ["user"] * (2 - same_words) + ["assistant"]
        assert [entry["status"] for entry in session(service, "mine")["turns"]] == ["done"] * turn + [
            "cancelled",
            "done",
        ]
        talk.say("and on")
        assert holds_what_is_stored(service, talk)

    require_sound_store(lab)


def test_two_clients_at_once_in_two_sessions_do_not_see_each_other(lab: Lab) -> None:
    lab.fault("small", echo=True)
    with lab.serve() as service, ThreadPoolExecutor(2) as pool:
        talks = [client(service, name, max_tokens=16) for name in ("one", "two")]

        def hold(talk: Any) -> None:
            for number in range(10):
                assert talk.say(f"{talk.session_id} says {number}") == f"{talk.session_id} says {number}"
                assert holds_what_is_stored(service, talk)

        for held in [pool.submit(hold, talk) for talk in talks]:
            held.result(BOUND_S)

        for messages in seen(service):
            assert len({message["content"].split()[0] for message in messages}) == 1

    require_sound_store(lab)


def test_two_clients_at_once_in_one_session_are_two_branches(lab: Lab) -> None:
    """From their second turn on each says what the conversation is, and the model sees that alone."""
    lab.fault("small", echo=True)
    with lab.serve() as service, ThreadPoolExecutor(2) as pool:
        talks = [client(service, "default", max_tokens=16) for _ in range(2)]

        def hold(talk: Any, name: str) -> None:
            for number in range(10):
                assert talk.say(f"{name} says {number}") == f"{name} says {number}"

        for held in [pool.submit(hold, talk, name) for talk, name in zip(talks, ("one", "two"), strict=True)]:
            held.result(BOUND_S)
        own = [messages for messages in seen(service) if not messages[-1]["content"].endswith("says 0")]
        assert all(len({message["content"].split()[0] for message in messages}) == 1 for messages in own)
        for talk in talks:
            talk.say("last")
            assert holds_what_is_stored(service, talk)

    require_sound_store(lab)


def test_conversation_survives_restarts_between_turns(lab: Lab) -> None:
    lab.fault("small", echo=True)
    messages: list[dict[str, str]] = []
    for number in range(4):
        with lab.serve() as service:
            talk = client(service, "mine", max_tokens=16)
            talk.messages = messages
            assert not messages or holds_what_is_stored(service, talk)
            talk.say(f"question {number}")
            assert holds_what_is_stored(service, talk)
            assert seen(service)[-1] == messages[:-1]

    assert len(messages) == 8
    require_sound_store(lab)
