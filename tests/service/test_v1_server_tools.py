"""Tools of the server below /v1: none runs unless the request names it, and then OpenAI's clients see an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.chat.talk import configure
from tests.conftest import REAL_ENGINES, MakeLab
from tests.support.service import Service, temporary_lab

LIST, TIME, WHERE = "list_contents", "get_current_time", "get_current_directory"
QUESTION = [{"role": "user", "content": "what is in the workspace?"}]
FORCED = {"type": "function", "function": {"name": LIST}}


@pytest.fixture(scope="module", params=REAL_ENGINES)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with temporary_lab(request.param, models={"small": {"context_length": 4096}}) as lab:
        configure(lab, tools={"builtin": [LIST, TIME, WHERE]}, chat={"max_tool_iterations": 2})
        (lab.folder / "workspace").mkdir()
        (lab.folder / "workspace" / "notes.txt").write_text("notes")
        with lab.serve() as service:
            yield service


def ask(service: Service, **more: Any) -> httpx.Response:
    body = {"messages": QUESTION, "max_tokens": 8, "temperature": 0, **more}
    return httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60)


def audited(service: Service) -> list[dict[str, Any]]:
    return list(httpx.get(f"{service.url}/audit").json()["entries"])


def test_without_a_name_no_server_tool_runs_whatever_else_is_asked(service: Service) -> None:
    """A client's own tools go back to the client, also where the server has one of the same name."""
    before = audited(service)
    own = {"type": "function", "function": {"name": LIST, "parameters": {"type": "object", "properties": {}}}}

    requests: tuple[dict[str, Any], ...] = (
        {},
        {"enable_tools": True},
        {"tools": [own], "tool_choice": "required"},
        {"server_tools": []},
    )
    for more in requests:
        assert ask(service, **more).status_code == 200, more
    assert audited(service) == before


def test_named_tool_really_runs_and_the_answer_has_openais_shape(service: Service) -> None:
    before = len(audited(service))
    # Without arguments: a small model cannot always copy a path.
    forced = {"type": "function", "function": {"name": WHERE}}
    answer = ask(service, server_tools=[WHERE], tool_choice=forced, model="small")

    assert answer.status_code == 200, answer.text
    body = answer.json()
    [choice] = body["choices"]
    assert (body["object"], body["model"], choice["message"]["role"]) == ("chat.completion", "small", "assistant")
    assert choice["finish_reason"] in {"stop", "length"}
    assert "tool_calls" not in choice["message"]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    newest, *_ = audited(service)
    assert len(audited(service)) > before
    assert newest["tool"] == WHERE
    assert newest["status"] == "ok"


def test_openai_client_streams_it(service: Service) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0, timeout=60)
    with client.chat.completions.create(
        model="small",
        messages=[{"role": "system", "content": "Be short."}, {"role": "user", "content": "what is there?"}],
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"server_tools": [LIST], "tool_choice": FORCED},
    ) as stream:
        chunks = list(stream)

    *said, finish, usage = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].finish_reason is None for chunk in said)
    # The folder's name is another one each time, and after some of them a small model has nothing to say.
    words = "".join(chunk.choices[0].delta.content or "" for chunk in said)
    assert finish.choices[0].finish_reason in {"stop", "length"}
    assert words or finish.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens > 0


def test_stream_says_what_the_model_says_after_its_tools(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {"tool_mode": "guided", "context_length": 4096}})
    decision = {"tool": TIME, "arguments": {}}
    lab.fault("small", replies=[json.dumps(decision), '{"tool": "none"}', "It is late."])
    with lab.serve() as service:
        answer = ask(service, server_tools=[TIME], stream=True)
        [entry] = audited(service)

    *events, done = [block.removeprefix("data: ") for block in answer.text.split("\n\n") if block]
    chunks = [json.loads(event)["choices"][0] for event in events]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == "It is late."
    assert (chunks[-1]["finish_reason"], done) == ("stop", "[DONE]")
    assert (entry["tool"], entry["status"]) == (TIME, "ok")


def test_stream_ends_with_done_once(service: Service) -> None:
    lines = [line for line in ask(service, server_tools=[TIME], stream=True).text.split("\n\n") if line]

    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["choices"] for line in lines[:-1])


@pytest.mark.parametrize(
    ("more", "param", "word"),
    [
        ({"server_tools": ["rm_rf"]}, "server_tools", LIST),
        ({"server_tools": [LIST], "tools": []}, "tools", "together"),
        ({"server_tools": [LIST], "response_format": {"type": "json_object"}}, "response_format", "together"),
        ({"server_tools": [LIST], "tool_choice": "rm_rf"}, "tool_choice", LIST),
        ({"server_tools": "all"}, "server_tools", "array"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(
    service: Service, more: dict[str, Any], param: str, word: str
) -> None:
    answer = ask(service, **more)
    error = answer.json()["error"]

    assert (answer.status_code, error["param"]) == (400, param)
    assert word in error["message"]


def test_switched_off_tools_are_said(service: Service) -> None:
    httpx.post(f"{service.url}/command", json={"command": "tools", "value": "off"}).raise_for_status()
    try:
        answer = ask(service, server_tools=[LIST])
    finally:
        httpx.post(f"{service.url}/command", json={"command": "tools", "value": "on"}).raise_for_status()

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "server_tools")


def test_what_needs_a_persons_word_is_denied(make_lab: MakeLab) -> None:
    """Nobody can be asked below /v1."""
    lab = make_lab(models={"small": {"tool_mode": "guided", "context_length": 4096}})
    precious = lab.folder / "workspace" / "notes.txt"
    precious.parent.mkdir()
    precious.write_text("old")
    decision = {"tool": "delete_file", "arguments": {"path": str(precious.resolve())}}
    lab.fault("small", replies=[json.dumps(decision), '{"tool": "none"}', "It stays."])
    with lab.serve() as service:
        body = {"messages": QUESTION, "server_tools": ["delete_file"]}
        answer = service.http.post("/v1/chat/completions", json=body)
        [entry] = service.http.get("/audit").json()["entries"]

    assert answer.json()["choices"][0]["message"]["content"] == "It stays."
    assert (entry["tool"], entry["verdict"], entry["status"]) == ("delete_file", "ask", "denied")
    assert precious.read_text() == "old"
