"""/v1/responses and /v1/messages over real HTTP, where only a script or a folder of its own brings it about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.projectors import PROJECTORS, write_projector
from tests.conftest import MakeLab
from tests.support.pictures import image_part, jpeg, png
from tests.support.service import HELLO, EngineKind, Service

RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
BODIES: dict[str, dict[str, Any]] = {
    RESPONSES: {"input": "Hello there", "max_output_tokens": 8},
    MESSAGES: {"messages": HELLO, "max_tokens": 8},
}
BOTH = pytest.mark.parametrize("path", BODIES)
CALL = {"content": "Let me see", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]}


def ask(service: Service, path: str, **more: Any) -> httpx.Response:
    return service.http.post(path, json=BODIES[path] | more)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """What a stream says; each event has its name on a line before it, and none is [DONE]."""
    *blocks, last = answer.text.split("\n\n")
    assert last == ""
    told = []
    for block in blocks:
        name, data = block.split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {told[-1]['type']}"
    return told


@BOTH
def test_stream_is_declared_as_events_that_no_proxy_buffers(anything: Service, path: str) -> None:
    answer = ask(anything, path, stream=True)

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert events(answer)[-1]["type"] in {"response.completed", "response.incomplete", "message_stop"}


def test_call_of_a_client_s_function_is_streamed_and_whole(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.fault("small", replies=[CALL])
    function = {"name": "add", "description": "adds"}
    responses = {"tools": [{"type": "function", **function}], "max_output_tokens": 99}
    messages = {"tools": [{**function, "input_schema": {"type": "object"}}], "max_tokens": 99}

    with lab.serve() as service:
        item = ask(service, RESPONSES, **responses).json()["output"][1]
        done = events(ask(service, RESPONSES, stream=True, **responses))[-1]["response"]["output"][1]
        block = ask(service, MESSAGES, **messages).json()["content"][1]
        told = events(ask(service, MESSAGES, stream=True, **messages))

    for call in (item, done):
        assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "add", {"a": 1})
        assert call["call_id"] == "call0"
    assert (block["type"], block["id"], block["name"], block["input"]) == ("tool_use", "call0", "add", {"a": 1})
    parts = [event["delta"]["partial_json"] for event in told if event.get("delta", {}).get("partial_json")]
    assert json.loads("".join(parts)) == {"a": 1}
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


@BOTH
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_engine_that_dies_before_a_word_is_replaced(make_lab: MakeLab, path: str, stream: bool) -> None:
    lab = make_lab()
    lab.fault("small", starts=[{"die_after_tokens": 0}, {}])

    with lab.serve() as service:
        answer = ask(service, path, stream=stream)

    assert answer.status_code == 200, answer.text
    assert "word1" in answer.text


@BOTH
def test_request_that_kills_its_second_engine_too_is_a_502(make_lab: MakeLab, path: str) -> None:
    lab = make_lab()
    lab.fault("small", die_after_tokens=0)

    with lab.serve() as service:
        answer = ask(service, path, stream=True)

    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == ("server_error" if path == RESPONSES else "api_error")


@BOTH
def test_stream_that_breaks_off_ends_with_an_error_in_its_own_words(make_lab: MakeLab, path: str) -> None:
    lab = make_lab()
    lab.fault("small", close_after_tokens=2)

    with lab.serve() as service:
        answer = ask(service, path, stream=True)
        whole = ask(service, path)

    last = events(answer)[-1]
    assert (answer.status_code, whole.status_code) == (200, 502)
    if path == RESPONSES:
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert "broke off" in last["response"]["error"]["message"]
        assert last["response"]["output"][0]["content"][0]["text"] == "word1 word2"
    else:
        assert (last["type"], last["error"]["type"]) == ("error", "api_error")
        assert "broke off" in last["error"]["message"]


@BOTH
def test_silent_stream_is_kept_alive_by_events_of_its_own(make_lab: MakeLab, path: str, tmp_path: Path) -> None:
    """Some clients count no comments; proxies close what is silent."""
    lab, gate = make_lab(), tmp_path / "gate"
    lab.fault("small", token_gate_file=str(gate), ping_s=0.05)
    sign, told = {RESPONSES: "response.in_progress", MESSAGES: "ping"}[path], []

    with lab.serve() as service, service.http.stream("POST", path, json=BODIES[path] | {"stream": True}) as answer:
        for line in answer.iter_lines():
            told.append(line)
            if told.count(f"event: {sign}") >= 3:
                gate.touch()

    assert not any(line.startswith(":") for line in told)
    assert told[-2].startswith('data: {"type":"response.' if path == RESPONSES else 'data: {"type":"message_stop"')


@BOTH
def test_client_that_leaves_ends_its_generation(make_lab: MakeLab, path: str, tmp_path: Path) -> None:
    lab = make_lab()
    lab.fault("small", token_gate_file=str(tmp_path / "never"))

    with lab.serve() as service:
        with service.http.stream("POST", path, json=BODIES[path] | {"stream": True}) as answer:
            next(answer.iter_lines())
        assert service.engine().ask("/fake/cancelled?is=1")["cancelled"] == 1


def test_model_is_kept_as_long_as_the_request_says_and_no_field_of_ours_goes_on(make_lab: MakeLab) -> None:
    with make_lab().serve() as service:
        ask(service, MESSAGES, keep_alive="10m", metadata={"user_id": "u"}, id_slot=3)
        [request] = [each for each in service.engine().ask("/fake/requests") if each["path"].endswith("completions")]
        assert ask(service, RESPONSES, keep_alive=0).status_code == 200
        service.until_state("small", "stopped")

    assert request["path"] == "/v1/chat/completions"
    assert request["body"].keys() == {"model", "messages", "max_tokens", "stream", "stream_options"}


def test_count_generates_nothing(make_lab: MakeLab) -> None:
    with make_lab().serve() as service:
        answer = service.http.post(COUNT, json={"messages": HELLO})
        paths = [each["path"] for each in service.engine().ask("/fake/requests")]

    assert answer.json().keys() == {"input_tokens"}
    assert "/v1/chat/completions" not in paths


def test_server_that_does_not_count_is_said_so(make_lab: MakeLab) -> None:
    """Another AirLab: it answers no /props."""
    with make_lab().serve() as there:
        far = {"far": {"filename": None, "remote": {"url": there.url, "model": "small"}}}
        with make_lab(models=far).serve() as here:
            answer = here.http.post(MESSAGES, json=BODIES[MESSAGES])
            counted = here.http.post(COUNT, json={"messages": HELLO})

    assert answer.status_code == 200, answer.text
    assert (answer.json()["model"], answer.json()["content"][0]["type"]) == ("far", "text")
    assert counted.status_code == 400
    assert "counts no tokens" in counted.json()["error"]["message"]


@BOTH
def test_model_that_only_embeds_is_refused_with_the_line_to_write(make_lab: MakeLab, path: str) -> None:
    with make_lab(models={"small": {"kind": ["embedding"]}}).serve() as service:
        answer = ask(service, path)

    assert answer.status_code == 400
    assert "kind: [chat, embedding]" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, COUNT])
def test_other_methods_are_refused(fake: Service, path: str) -> None:
    answer = fake.http.get(path)

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_images_of_both_reach_a_model_that_sees_and_only_measured(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    lab = make_lab(engine_kind, models={"small": {"context_length": 2048, "mmproj": "eye.gguf"}})
    write_projector(PROJECTORS[0], lab.folder / "models" / "eye.gguf")

    def showing(data: bytes, kind: str = "png") -> list[tuple[str, dict[str, Any], str]]:
        url = image_part(data, kind)["image_url"]["url"]
        shown = {"type": "input_image", "image_url": url}
        source = {"type": "base64", "media_type": f"image/{kind}", "data": url.partition(",")[2]}
        image = {"type": "image", "source": source}
        use = {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "look", "input": {}}]}
        found = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": [image]}]}
        told, nested = [{"role": "user", "content": [image]}], [*HELLO, use, found]
        return [
            (RESPONSES, {"input": [{"role": "user", "content": [shown]}], "max_output_tokens": 2}, "input[0]"),
            (MESSAGES, {"messages": told, "max_tokens": 2}, "messages[0]"),
            (MESSAGES, {"messages": nested, "max_tokens": 2}, "messages[2]"),
            (COUNT, {"messages": told}, "messages[0]"),
        ]

    with lab.serve() as service:
        seen = [service.http.post(path, json=body) for path, body, _ in showing(png(64, 48))]
        refused = [
            (service.http.post(path, json=body), where) for path, body, where in showing(jpeg(60_000, 60_000), "jpeg")
        ]

    assert [answer.status_code for answer in seen] == [200] * 4, [answer.text for answer in seen]
    assert seen[3].json()["input_tokens"] > 20
    for answer, where in refused:
        assert answer.status_code == 400
        assert "60000 x 60000 pixels" in answer.text
        assert where in answer.text
