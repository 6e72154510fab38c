"""POST /chat over real HTTP: JSON and events tell the same, errors come where they can be seen, leaving cancels."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.chat.talk import (
    assistant,
    calls,
    configure,
    prompts,
    require_sound_store,
    said,
    say,
    session,
    streamed,
    streaming,
    user,
    visible,
)
from tests.conftest import MakeLab
from tests.support.service import BOUND_S, USE_KEY, Lab, Service, wait_until

TIME = "get_current_time"
MEASURED = {"generation_time", "tokens_per_second", "duration_s", "message_id", "user_message_id"}
HI = [user("hi")]


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    lab = make_lab("fake", models={"small": {}}, profile={"parallel": 2})
    configure(lab, tools={"builtin": [TIME]})
    return lab


def unmeasured(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in MEASURED}


def test_json_and_events_tell_the_same(lab: Lab) -> None:
    lab.fault("small", supports_tools=True, replies=[calls((TIME, {"timezone": "Nowhere/Land"})), "noon"] * 2)
    with lab.serve() as service:
        answer = said(service, "when?", session_id="a", enable_tools=True)
        events = streamed(service, "when?", session_id="b", enable_tools=True)

    by_name = {name: [data for other, data in events if other == name] for name, _ in events}
    assert "".join(token["text"] for token in by_name["token"]) == answer["response"] == "noon"
    [done], [ended] = by_name["done"], by_name["tool_result"]
    assert {**unmeasured(done), "session_id": "a"} == {name: answer[name] for name in unmeasured(done)}
    assert [unmeasured(call) for call in answer["tool_calls"]] == [unmeasured(ended)]
    assert answer["tools_used"] == [f"{TIME}(Nowhere/Land)"]
    assert answer["notices"] == [notice["message"] for notice in by_name.get("notice", [])] == []
    assert set(answer) >= {"tokens_input", "tokens_generated", "tokens_total", "device", "model", "finish_reason"}


def test_first_event_says_the_turn_is_stored_and_the_last_that_it_is_whole(fake: Service) -> None:
    said(fake, "hi", session_id="order")
    events = streamed(fake, "hi", session_id="order")

    name, opened = events[0]
    assert (name, opened["session_id"], opened["model"]) == ("turn", "order", "small")
    assert opened["user_message_id"] == events[-1][1]["user_message_id"] < events[-1][1]["message_id"]
    assert {name for name, _ in events[1:-1]} == {"token"}
    assert events[-1][0] == "done"


def test_counts_are_the_engines_and_add_up(fake: Service) -> None:
    answer = said(fake, "hi", session_id="counts")

    assert answer["tokens_generated"] == 8
    assert answer["tokens_total"] == answer["tokens_input"] + answer["tokens_generated"]
    # Both are rounded: of a quick answer the time is told to a few hundredths of itself.
    assert answer["generation_time"] == pytest.approx(8 / answer["tokens_per_second"], abs=1e-4, rel=0.03)


@pytest.mark.parametrize("stream", [True, False])
def test_answer_cut_by_max_tokens_says_so(fake: Service, stream: bool) -> None:
    if stream:
        [done] = [data for name, data in streamed(fake, "hi", session_id="cut", max_tokens=3) if name == "done"]
    else:
        done = said(fake, "hi", session_id="cut", max_tokens=3)
    assert (done["finish_reason"], done["tokens_generated"]) == ("length", 3)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": HI, "model": "nobody"}, 404, None),
        ({"messages": HI, "tool_choice": "rm_rf", "enable_tools": True}, 400, "tool_choice"),
        ({"messages": HI, "tool_choice": {"function": {}}, "enable_tools": True}, 400, "tool_choice"),
        ({"messages": HI, "tool_choice": "required"}, 400, "tool_choice"),
        ({"messages": [*HI, {"role": "system", "content": "x"}, *HI]}, 400, "messages"),
        ({"messages": [assistant("hello")]}, 400, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages"),
    ],
)
def test_refused_request_is_a_status_and_leaves_nothing_behind(
    fake: Service, stream: bool, body: dict[str, Any], status: int, param: str | None
) -> None:
    """A 200 with an error inside would be taken for an answer; a turn in the store, for a failed one."""
    answer = fake.http.post("/chat", json={**body, "stream": stream, "session_id": "refused"})

    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert answer.json()["detail"] == error["message"]
    assert fake.http.get("/sessions/refused").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'{"messages": null}',
        b'{"messages": "hi"}',
        b'{"messages": {}}',
        b'{"messages": [5]}',
        b'{"messages": [null]}',
        b'{"messages": [{"content": "x"}]}',
        b'{"messages": [{"role": "robot", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": 5}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}',
        b'{"messages": [], "temperature": 2.1}',
        b'{"messages": [], "temperature": NaN}',
        b'{"messages": [], "max_tokens": 0}',
        b'{"messages": [], "max_tokens": 1.5}',
        b'{"messages": [], "max_tokens": 1e99}',
        b'{"messages": [], "top_p": -0.1}',
        b'{"messages": [], "top_k": -1}',
        b'{"messages": [], "stream": "yes"}',
        b'{"messages": [], "enable_tools": 2}',
        b'{"messages": [], "session_id": ""}',
        b'{"messages": [], "session_id": 5}',
        b'{"messages": [], "session_id": "a\\nb"}',
        b'{"messages": [], "session_id": "' + b"x" * 129 + b'"}',
        b'{"messages": [], "tool_choice": 5}',
        b'{"messages": [], "model": 5}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"messages": [], "tool_choice": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    ],
    ids=lambda body: body[:60].decode("ascii", "replace"),
)
def test_hostile_body_is_a_400_with_the_usual_shape(fake: Service, body: bytes) -> None:
    answer = fake.http.post("/chat", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "content", ["", " \n ", "\x00", "null", "🙂" * 100, "<|im_end|>", [{"type": "text", "text": "two "}] * 2, None]
)
def test_any_text_is_said_stored_and_answered(fake: Service, content: Any) -> None:
    message = {"role": "user", "content": content}
    answer = fake.http.post(
        "/chat", json={"messages": [message], "session_id": f"text {content!r:.40}", "max_tokens": 4}
    )

    assert answer.status_code == 200, answer.text
    text = "two two " if isinstance(content, list) else content or ""
    assert visible(fake, answer.json()["session_id"])[0]["content"] == text


@pytest.mark.parametrize("session_id", ["a/b", "../x", "ä ö", "a?b#c", "%2e%2e", "🙂"])
def test_session_of_any_name_can_be_read_again(fake: Service, session_id: str) -> None:
    said(fake, "hi", session_id=session_id)

    assert session(fake, session_id)["session_id"] == session_id


def test_session_is_default_for_each_key_when_none_is_named(fake: Service) -> None:
    mine = fake.http.post("/chat", json={"messages": [user("admin's")], "max_tokens": 4}).json()
    as_user = {"authorization": f"Bearer {USE_KEY}"}
    theirs = fake.http.post("/chat", json={"messages": [user("user's")], "max_tokens": 4}, headers=as_user).json()

    assert mine["session_id"] == theirs["session_id"] == "default"
    assert visible(fake, "default")[-2]["content"] == "admin's"
    stored = fake.http.get("/sessions/default", headers=as_user).json()["messages"]
    assert stored[0]["content"] == "user's"


@pytest.mark.parametrize("stream", [True, False])
def test_empty_array_starts_an_empty_branch_and_keeps_what_was_said(lab: Lab, stream: bool) -> None:
    with lab.serve() as service:
        said(service, "one")
        if stream:
            events = streamed(service)
            assert [name for name, _ in events] == ["done"]
            answer = {"response": "", **events[0][1]}
        else:
            answer = said(service)
        assert (answer["response"], answer["tokens_total"], answer["finish_reason"]) == ("", 0, "reset")
        assert visible(service) == []
        said(service, "two")
        assert [message["content"] for message in prompts(service)[-1]["messages"][1:]] == ["two"]
        first = [user("one"), assistant("word1 word2 word3 word4 word5 word6 word7 word8")]
        said(service, *first, user("three"))
        assert visible(service)[:2] == first

    require_sound_store(lab)


def test_system_prompt_is_the_messages_own_then_the_requests_then_the_servers(lab: Lab) -> None:
    with lab.serve() as service:
        service.http.post("/command", json={"command": "system", "value": "server's"}).raise_for_status()
        said(service, "a")
        said(service, "b", system_prompt="request's")
        said(service, {"role": "system", "content": "own"}, user("c"), system_prompt="request's")
        said(service, "d", system_prompt="")
        sent = [prompt["messages"][0] for prompt in prompts(service)]

    assert [(message["role"], message["content"]) for message in sent] == [
        ("system", "server's"),
        ("system", "request's"),
        ("system", "own"),
        ("user", "a"),
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_engine_that_breaks_off_fails_the_turn_where_it_can_be_seen(lab: Lab, stream: bool) -> None:
    lab.fault("small", starts=[{"die_after_tokens": 3}, {}])
    with lab.serve() as service:
        if stream:
            events = streamed(service, "hi")
            assert [name for name, _ in events if name == "token"]
            assert (events[-1][0], events[-1][1]["error"]["code"]) == ("error", "upstream_error")
            assert "done" not in {name for name, _ in events}
        else:
            answer = say(service, "hi")
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
        assert visible(service) == []
        assert session(service)["turns"][0]["status"] == "failed"

        again = said(service, "hi")
        assert again["notices"] == ["the turn before this one was failed"]
        assert [message["role"] for message in visible(service)] == ["user", "assistant"]

    require_sound_store(lab)


@pytest.mark.parametrize(
    "script", [{"garbage_sse": True}, {"no_done": True}, {"close_after_tokens": 3}, {"bad_utf8": True}]
)
def test_engine_that_answers_strangely_gives_a_whole_answer_or_none(lab: Lab, script: dict[str, Any]) -> None:
    lab.fault("small", **script)
    with lab.serve() as service:
        answer = say(service, "hi")
        stored = visible(service)

    assert answer.status_code in {200, 502}, answer.text
    assert [message["content"] for message in stored] == (
        ["hi", answer.json()["response"]] if answer.is_success else []
    )


def test_model_that_cannot_load_fails_the_turn_with_its_last_words(lab: Lab) -> None:
    lab.fault("small", exit_code=1, exit_at="load", exit_message="no memory for that")
    with lab.serve() as service:
        answer = say(service, "hi")
        events = streamed(service, "hi")

    assert answer.status_code == 503
    assert "no memory for that" in answer.json()["error"]["message"]
    assert events[-1][0] == "error"
    assert "no memory for that" in events[-1][1]["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_cancels_turn_and_generation(lab: Lab, stream: bool) -> None:
    lab.fault("small", stall_after_tokens=2)
    with lab.serve() as service:
        if stream:
            with streaming(service, "hi") as events:
                next(data for name, data in events if name == "token")
        else:
            with service.asked("/chat", {"messages": HI, "session_id": "s"}):
                service.engine().ask("/fake/active?is=1")

        assert service.engine().ask("/fake/cancelled?is=1")["active"] == 0
        wait_until(lambda: session(service)["turns"][0]["status"] == "cancelled", "the turn is cancelled")
        service.until_model("small", lambda row: row["busy"] == 0, "no slot is leased")
        assert visible(service) == []


def test_client_that_leaves_while_the_model_loads_ends_neither_the_load_nor_what_comes_after(lab: Lab) -> None:
    gate = lab.folder / "gate"
    lab.fault("small", load_until_file=str(gate))
    with lab.serve() as service:
        with streaming(service, "hi") as events:
            # The turn is opened beside the wait: either may be told first.
            awaited = {"turn", "waiting"}
            while awaited:
                awaited.discard(next(events)[0])
            service.engine()
        wait_until(lambda: session(service)["turns"][0]["status"] == "cancelled", "the turn is cancelled")
        gate.touch()
        assert said(service, "hi")["response"].startswith("word1")
        assert service.engine().ask("/fake/argv")["start"] == 1


def test_turns_of_one_session_run_one_after_another_and_others_do_not_wait(
    lab: Lab, background: ThreadPoolExecutor
) -> None:
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate), echo=True)
    with lab.serve() as service:
        with streaming(service, "first of all") as events:
            next(data for name, data in events if name == "token")
            others = [background.submit(said, service, f"number {number} of them") for number in range(3)]
            elsewhere = background.submit(said, service, "one", session_id="elsewhere")
            assert elsewhere.result(BOUND_S)["response"] == "one"
            assert [turn["status"] for turn in session(service)["turns"]] == ["open"]
            gate.touch()
            rest = list(events)
        answers = [other.result(BOUND_S)["response"] for other in others]
        stored = visible(service)

    assert rest[-1][0] == "done"
    assert {message["content"] for message in stored[::2]} == {"first of all", *answers}
    assert [message["content"] for message in stored[::2]] == [message["content"] for message in stored[1::2]]
    assert stored[0]["content"] == "first of all"


def test_client_that_leaves_while_its_turn_waits_for_another_leaves_no_trace(lab: Lab) -> None:
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    with lab.serve() as service:
        with streaming(service, "first") as events:
            next(data for name, data in events if name == "token")
            with service.asked("/chat", {"messages": HI, "session_id": "s"}):
                service.hear()
            gate.touch()
            assert list(events)[-1][0] == "done"
        said(service, "second")

        assert [message["content"] for message in visible(service)[::2]] == ["first", "second"]
        assert len(session(service)["turns"]) == 2


def test_event_is_one_json_line_whatever_is_in_it(lab: Lab) -> None:
    """A line break in a text must not end the event."""
    text = "line\nline\r\n\r\ndata: x\n\nevent: done\u2028"
    lab.fault("small", replies=[text])
    with lab.serve() as service:
        body = {"messages": HI, "stream": True, "max_tokens": 64}
        raw = service.http.post("/chat", json=body).text

    blocks = [block.split("\n") for block in raw.split("\n\n") if block]
    assert all([line.partition(": ")[0] for line in block] == ["event", "data"] for block in blocks)
    texts = [json.loads(block[1].removeprefix("data: ")).get("text", "") for block in blocks]
    assert "".join(texts) == text
