"""Native tool calls, as a scripted model makes them: well, badly, in parallel, for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.chat.talk import calls, configure, prompts, require_sound_store, said, session, streamed, visible
from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, KEYS, USE_KEY, Lab, Service

LIST, READ, TIME = "list_contents", "read_file", "get_current_time"
TOOLS: dict[str, Any] = {"builtin": [LIST, READ, TIME]}


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """A model whose template knows tools, and a workspace with two files."""
    lab = make_lab("fake", models={"small": {"context_length": 16384}})
    configure(lab, tools=TOOLS, chat={"max_tool_iterations": 3})
    (lab.folder / "workspace").mkdir()
    for name in ("a.txt", "b.txt"):
        (lab.folder / "workspace" / name).write_text(f"this is {name}")
    return lab


def path(lab: Lab, name: str = "") -> dict[str, str]:
    return {"path": str(lab.folder / "workspace" / name).rstrip("/")}


@contextmanager
def replying(lab: Lab, *replies: Any) -> Iterator[Service]:
    lab.fault("small", supports_tools=True, replies=replies)
    with lab.serve() as service:
        yield service
    require_sound_store(lab)


def ask(service: Service, text: str = "go", **more: Any) -> dict[str, Any]:
    return said(service, text, **{"enable_tools": True, "max_tokens": 256, **more})


def statuses(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(call["name"], call["status"]) for call in answer["tool_calls"]]


def test_parallel_calls_are_one_round_and_their_results_go_back_in_order(lab: Lab) -> None:
    with replying(
        lab, calls((READ, path(lab, "a.txt")), (LIST, path(lab)), (READ, path(lab, "b.txt"))), "done"
    ) as service:
        answer = ask(service)
        first, second = prompts(service)
        stored = session(service)["messages"]

    assert answer["response"] == "done"
    assert len(answer["tools_used"]) == 3
    assert {tool["function"]["name"] for tool in first["tools"]} == {LIST, READ, TIME}
    asked, *told = second["messages"][2:]
    assert [call["function"]["name"] for call in asked["tool_calls"]] == [READ, LIST, READ]
    assert [message["tool_call_id"] for message in told] == [call["id"] for call in asked["tool_calls"]]
    expected = ["this is a.txt", "items", "this is b.txt"]
    assert all(part in message["content"] for part, message in zip(expected, told, strict=True))
    assert [message["role"] for message in stored] == ["user", "assistant", "tool", "tool", "tool", "assistant"]


@pytest.mark.parametrize("arguments", ["{broken", "", '["list"]', '{"path": NaN}', "[" * 300, '{"nowhere": 1}'])
def test_arguments_that_cannot_be_read_are_answered_and_the_conversation_goes_on(lab: Lab, arguments: str) -> None:
    """llama-server would refuse the broken call in every later prompt, too."""
    with replying(lab, calls((READ, arguments)), "sorry", "still here") as service:
        answer = ask(service)
        again = said(service, "more")
        last = prompts(service)[-1]["messages"]

    assert statuses(answer) == [(READ, "error")]
    assert answer["response"] == "sorry"
    assert json.loads(answer["tool_calls"][0]["result"])["status"] == "error"
    assert again["response"] == "still here"
    [call] = next(message["tool_calls"] for message in last if message.get("tool_calls"))
    assert isinstance(json.loads(call["function"]["arguments"]), dict)


def test_unknown_tool_is_answered_with_those_there_are(lab: Lab) -> None:
    with replying(lab, calls(("rm_rf", {})), "sorry") as service:
        answer = ask(service)

    assert statuses(answer) == [("rm_rf", "error")]
    assert READ in answer["tool_calls"][0]["result"]
    assert answer["tools_used"] == []


def test_text_before_a_call_stays_part_of_the_answer(lab: Lab) -> None:
    """What the client has been shown is what is stored, or its own account would be another branch."""
    with replying(lab, calls((LIST, path(lab)), text="Let me look."), "Two files.") as service:
        events = streamed(service, "go", enable_tools=True, max_tokens=256)
        shown = "".join(data["text"] for name, data in events if name == "token")
        stored = visible(service)
        names = [name for name, _ in events if name not in {"token", "waiting"}]

    assert shown == "Let me look.\n\nTwo files."
    assert stored[-1]["content"] == shown
    assert names == ["turn", "tool_start", "tool_result", "done"]


def test_after_the_last_round_the_model_speaks_without_tools(lab: Lab) -> None:
    rounds = [calls((READ, path(lab, f"{number}.txt"))) for number in range(3)]
    with replying(lab, *rounds, "That is all.") as service:
        answer = ask(service)
        sent = prompts(service)

    assert (answer["response"], answer["finish_reason"]) == ("That is all.", "tool_limit")
    assert len(answer["tool_calls"]) == 3
    assert ["tools" in prompt for prompt in sent] == [True, True, True, False]
    assert answer["tokens_total"] == answer["tokens_input"] + answer["tokens_generated"]


def test_model_that_never_speaks_still_leaves_an_answer(lab: Lab) -> None:
    """Calls are all it writes, also when no tools are offered: then they are not run."""
    with replying(lab, *[calls((READ, path(lab, f"{number}.txt"))) for number in range(9)]) as service:
        answer = ask(service)
        stored = visible(service)

    assert (answer["response"], answer["finish_reason"]) == ("", "tool_limit")
    assert len(answer["tool_calls"]) == 3
    assert stored == [{"role": "user", "content": "go"}, {"role": "assistant", "content": ""}]


def test_same_call_again_is_not_run_again(lab: Lab) -> None:
    with replying(lab, calls((LIST, path(lab))), calls((LIST, path(lab))), "a.txt and b.txt") as service:
        answer = ask(service)
        sent = prompts(service)

    assert (answer["response"], answer["finish_reason"]) == ("a.txt and b.txt", "stop")
    assert len(answer["tool_calls"]) == 1
    assert ["tools" in prompt for prompt in sent] == [True, True, False]


def test_denied_call_is_told_and_listed_but_was_not_used(lab: Lab) -> None:
    with replying(lab, calls((READ, {"path": "/etc/passwd"}), (LIST, path(lab))), "no") as service:
        answer = ask(service)
        told = prompts(service)[-1]["messages"][-2]

    assert statuses(answer) == [(READ, "denied"), (LIST, "ok")] or statuses(answer) == [(LIST, "ok"), (READ, "denied")]
    assert [used.split("(")[0] for used in answer["tools_used"]] == [LIST]
    assert "Denied" in told["content"]
    denied = next(call for call in answer["tool_calls"] if call["status"] == "denied")
    assert "workspace" in denied["verdict"]


def test_call_that_failed_was_used_all_the_same(lab: Lab) -> None:
    with replying(lab, calls((READ, path(lab, "missing.txt"))), "no") as service:
        answer = ask(service)

    assert statuses(answer) == [(READ, "error")]
    assert answer["tools_used"] == [f"{READ}({path(lab, 'missing.txt')['path']})"]


def test_long_result_does_not_fail_the_turn_and_is_stored_whole(lab: Lab) -> None:
    """A model that read a long file is shown a part of it, and says what it can."""
    text = "\n".join(f"line {number} of a long file" for number in range(5000))
    (lab.folder / "workspace" / "long.txt").write_text(text)
    with replying(lab, calls((READ, path(lab, "long.txt"))), "It is long.", "I said so.") as service:
        answer = ask(service)
        shown = prompts(service)[-1]["messages"][-1]["content"]
        later = ask(service, "And?")
        again = prompts(service)[-1]["messages"]

    assert answer["response"] == "It is long."
    assert "there is no room for more]" in shown
    assert len(answer["tool_calls"][0]["result"]) > 100_000
    assert later["response"] == "I said so."
    assert answer["tokens_input"] < 3500
    assert [message["content"][:20] for message in again if message["role"] == "tool"] == [shown[:20]]


@pytest.mark.parametrize("switched_off", [True, False])
def test_tools_that_were_asked_for_and_are_not_offered_are_explained(make_lab: MakeLab, switched_off: bool) -> None:
    lab = make_lab("fake")
    configure(lab, tools={"builtin": [TIME] if switched_off else []})
    with replying(lab, "words") as service:
        if switched_off:
            service.http.post("/command", json={"command": "tools", "value": "off"}).raise_for_status()
        for choice in ["auto", "required", *([TIME] if switched_off else [])]:
            answer = ask(service, tool_choice=choice)
            assert answer["response"] == "words"
            assert ("switch is off" if switched_off else "no tools are enabled") in answer["notices"][0]
        assert ask(service, enable_tools=False)["notices"] == []
        assert not any("tools" in prompt for prompt in prompts(service))


def test_forced_call_of_a_native_model_is_guided_once_and_it_is_told_of_the_tools(lab: Lab) -> None:
    """Nothing native forces a call; without a word about them the model would choose blindly."""
    decision = {"tool": LIST, "arguments": path(lab)}
    with replying(lab, decision, "Two files.") as service:
        answer = ask(service, tool_choice="required")
        [decided] = prompts(service, path="/completion")
        [spoken] = prompts(service)

    assert statuses(answer) == [(LIST, "ok")]
    assert f"- {LIST}: " in decided["prompt"]
    assert f"- {LIST}: " not in spoken["messages"][0]["content"]
    assert "tools" in spoken


def test_tool_choice_none_offers_nothing(lab: Lab) -> None:
    with replying(lab, "words") as service:
        answer = ask(service, tool_choice="none")
        [prompt] = prompts(service)

    assert (answer["tool_calls"], answer["notices"], "tools" in prompt) == ([], [], False)


def test_sessions_of_another_key_do_not_exist(make_lab: MakeLab) -> None:
    lab = make_lab("fake", environment=KEYS)
    with lab.serve(key=USE_KEY) as service:
        said(service, "mine", session_id="mine")
        theirs = service.http.get("/sessions/mine", headers={"authorization": f"Bearer {ADMIN_KEY}"})

    assert theirs.status_code == 404
    assert theirs.json()["error"]["code"] == "session_not_found"
