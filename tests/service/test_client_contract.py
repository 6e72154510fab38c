"""What breaks real clients when it is wrong: the client contract, bullet by bullet, over real HTTP.

Names begin with the section they come from: 5.1 framing, 5.2 chunks, 5.3 tool calls, 5.4 errors, 5.5 models, 5.6
embeddings and the rest, 5.7 CORS and Host. ``anything`` is every engine; ``fake`` where only a script brings it about.
"""

from __future__ import annotations

import base64
import http.client
import json
import struct
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.service import BOUND_S, CHAT, HELLO, Service, events_of

COMPLETIONS, EMBEDDINGS, MODELS = "/v1/completions", "/v1/embeddings", "/v1/models"
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error, once its status and its shape are right."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


def chunks_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Every chunk of a stream that ends as it should."""
    *chunks, last = events_of(answer)
    assert last == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


# 5.1 framing


def test_5_1_stream_is_declared_as_events_that_no_proxy_buffers_or_packs(anything: Service) -> None:
    with anything.stream() as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in answer.headers
        assert "content-length" not in answer.headers


def test_5_1_every_event_is_one_data_line_and_done_comes_once_at_the_end(anything: Service) -> None:
    """An id:, event: or retry: line makes openai-python read the next blank line as an empty event."""
    with anything.stream(max_tokens=2) as answer:
        text = answer.read().decode()

    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    assert [number for number, block in enumerate(blocks) if block == "data: [DONE]"] == [len(blocks) - 1]


def test_5_1_stream_that_broke_off_ends_with_an_error_and_without_done(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.fault("small", close_after_tokens=2)

    with lab.serve() as service, service.stream() as answer:
        events = events_of(answer)

    assert answer.status_code == 200
    assert "[DONE]" not in events
    assert json.loads(events[-1])["error"]["code"] == "upstream_error"
    assert all("choices" in json.loads(event) for event in events[:-1])


def test_5_1_stream_whose_model_cannot_load_is_an_error_with_its_own_status(make_lab: MakeLab) -> None:
    """A 200 before the model is ready would hide the error from most clients."""
    lab = make_lab()
    lab.fault("small", exit_code=1, exit_at="load", exit_message="no memory for that")

    with lab.serve() as service, service.stream() as answer:
        answer.read()
        assert "no memory for that" in error_of(answer, 503)["message"]


# 5.2 chunks


def test_5_2_chunks_share_their_head_and_only_the_last_has_a_finish_reason(anything: Service) -> None:
    with anything.stream(model="small", max_tokens=3, ignore_eos=True) as answer:
        chunks = chunks_of(answer)

    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"small"}
    assert {type(chunk["created"]) for chunk in chunks} == {int}
    choices = [chunk["choices"] for chunk in chunks]
    assert all(len(choice) == 1 and choice[0]["index"] == 0 for choice in choices), "clients read choices[0]"
    assert choices[0][0]["delta"]["role"] == "assistant"
    assert [choice[0]["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    assert choices[-1][0]["delta"] == {}


def test_5_2_usage_is_one_more_chunk_without_choices_when_it_was_asked_for(anything: Service) -> None:
    with anything.stream(max_tokens=3, ignore_eos=True, stream_options={"include_usage": True}) as answer:
        *others, last = chunks_of(answer)

    assert last["choices"] == []
    usage = last["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["prompt_tokens"] + 3 == usage["total_tokens"]
    assert all(chunk["choices"] and not chunk.get("usage") for chunk in others)


def test_5_2_usage_is_in_every_whole_answer(anything: Service) -> None:
    assert anything.chat(max_tokens=3, ignore_eos=True).json()["usage"]["completion_tokens"] == 3


# 5.3 tool calls


@pytest.fixture(scope="module")
def calls() -> Any:
    """What the scripted model calls: two tools at once."""
    called = [{"name": "add", "arguments": {"first": 1, "second": 2}}, {"name": "now", "arguments": {}}]
    return {"content": "Let me see", "tool_calls": called}


def test_5_3_streamed_calls_are_numbered_from_0_and_their_arguments_are_text(make_lab: MakeLab, calls: Any) -> None:
    lab = make_lab()
    lab.fault("small", replies=[calls])

    with lab.serve() as service, service.stream(tools=TOOLS, max_tokens=100) as answer:
        chunks = chunks_of(answer)

    deltas = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert all(type(delta["index"]) is int and isinstance(delta["function"]["arguments"], str) for delta in deltas)
    first = [delta for delta in deltas if "id" in delta]
    assert [(delta["index"], delta["type"], delta["function"]["name"]) for delta in first] == [
        (0, "function", "add"),
        (1, "function", "now"),
    ]
    said = ["".join(d["function"]["arguments"] for d in deltas if d["index"] == index) for index in (0, 1)]
    assert [json.loads(text) for text in said] == [{"first": 1, "second": 2}, {}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "Let me see", "text streams too"


def test_5_3_calls_in_a_whole_answer(make_lab: MakeLab, calls: Any) -> None:
    lab = make_lab()
    lab.fault("small", replies=[calls])

    with lab.serve() as service:
        choice = service.chat(tools=TOOLS, max_tokens=100).json()["choices"][0]

    assert choice["finish_reason"] == "tool_calls"
    assert [json.loads(call["function"]["arguments"]) for call in choice["message"]["tool_calls"]] == [
        {"first": 1, "second": 2},
        {},
    ]


def history(arguments: str, result: Any = "3") -> list[dict[str, Any]]:
    call = {"id": "call0", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call0", "content": result},
    ]


@pytest.mark.parametrize("result", ["3", [{"type": "text", "text": "3"}]], ids=["text", "parts"])
def test_5_3_calls_and_their_results_in_the_history_are_taken(anything: Service, result: Any) -> None:
    answer = anything.chat(messages=history('{"first": 1}', result), tools=TOOLS, tool_choice="auto", max_tokens=1)

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("left_out", ["type", "id", "content"])
def test_5_3_calls_in_the_history_may_leave_out_what_can_only_mean_one_thing(anything: Service, left_out: str) -> None:
    messages = history("{}")
    messages[1]["tool_calls"][0].pop(left_out, None)
    messages[1].pop(left_out, None)

    answer = anything.chat(messages=messages, max_tokens=1)

    assert answer.status_code == 200, answer.text


def test_5_3_arguments_in_the_history_that_are_no_json_are_a_400_and_not_the_end_of_the_conversation(
    anything: Service,
) -> None:
    error = error_of(anything.chat(messages=history('{"first": ')), 400)

    assert error["param"] == "messages[1].tool_calls[0].function.arguments"


def test_5_3_tool_choice_and_parallel_tool_calls_reach_the_engine(fake: Service) -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    fake.chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)

    seen = last_request_of(fake)["body"]
    assert (seen["tools"], seen["tool_choice"], seen["parallel_tool_calls"]) == (TOOLS, choice, False)


# 5.4 errors


def last_request_of(fake: Service) -> dict[str, Any]:
    requests = fake.engine().ask("/fake/requests")
    found: dict[str, Any] = [request for request in requests if request["method"] == "POST"][-1]
    return found


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"n": 2}, "n"),
        ({"n": 2, "stream": True}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [""] * 65}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, None),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"tools": {"name": "x"}}, "tools"),
        ({"model": 7}, "model"),
    ],
)
def test_5_4_bad_field_is_a_400_that_names_it(fake: Service, more: dict[str, Any], param: str | None) -> None:
    error = error_of(fake.chat(**more), 400)

    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


def test_5_4_missing_field_is_a_400_that_names_it(fake: Service) -> None:
    for path, param in ((CHAT, "messages"), (COMPLETIONS, "prompt"), (EMBEDDINGS, "input")):
        assert error_of(fake.http.post(path, json={"model": "small"}), 400)["param"] == param


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_5_4_prompt_beyond_the_context_names_both_counts(anything: Service, path: str) -> None:
    text = "word " * 2000
    prompt = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    error = error_of(anything.http.post(path, json=prompt), 400)

    assert error["code"] == "context_length_exceeded"
    assert error["n_ctx"] == 1024
    assert error["n_prompt_tokens"] >= 2000
    assert "this model's maximum context length is 1024 tokens" in error["message"]


def test_5_4_unknown_model_is_a_404_with_the_keys_and_the_line_that_would_help(fake: Service) -> None:
    error = error_of(fake.chat(model="gpt-4o"), 404)

    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
    assert "there are small" in error["message"]
    assert "`aliases: [gpt-4o]`" in error["message"]


def test_5_4_body_that_is_too_large_is_a_413(fake: Service) -> None:
    answer = fake.chat(messages=[{"role": "user", "content": "x" * 9_000_000}])

    assert error_of(answer, 413)["type"] == "invalid_request_error"


def test_5_4_engine_that_answers_500_is_a_502(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.fault("small", status=500)

    with lab.serve() as service:
        error = error_of(service.chat(), 502)

    assert (error["type"], error["code"]) == ("server_error", "upstream_error")


def test_5_4_engine_that_refuses_a_request_is_a_400_with_its_words(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.fault("small", status=400)

    with lab.serve() as service:
        assert "as the script says" in error_of(service.chat(), 400)["message"]


@pytest.mark.parametrize("path", ["/v1/nope", "/v1/", "/nope", "/v1", "/page", "/models/small/nope"])
def test_5_4_unknown_path_is_a_404_in_shape(fake: Service, path: str) -> None:
    assert error_of(fake.http.get(path), 404)["type"] == "invalid_request_error"
    assert error_of(fake.http.post(path, json={}), 404)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            ("GET", path)
            for path in (CHAT, COMPLETIONS, EMBEDDINGS, "/model/switch", "/shutdown", "/models/small/load")
        ),
        *(("POST", path) for path in (MODELS, "/v1/models/small", "/health", "/manifest", "/ps")),
        *(("DELETE", path) for path in (CHAT, MODELS, "/v1/models/small", "/health", "/model/switch")),
    ],
)
def test_5_4_wrong_method_is_a_405_in_shape_that_names_the_right_one(fake: Service, method: str, path: str) -> None:
    answer = fake.http.request(method, path)

    assert error_of(answer, 405)["type"] == "invalid_request_error"
    assert ("GET" if path in {MODELS, "/v1/models/small", "/health", "/manifest", "/ps"} else "POST") in answer.headers[
        "allow"
    ]


def test_5_4_owner_routes_repeat_the_error_as_detail_and_v1_does_not(fake: Service) -> None:
    for answer in (
        fake.http.get("/nope"),
        fake.http.post("/health"),
        fake.http.post("/model/switch", json={"model_key": "nope"}),
        fake.http.post("/model/switch", json={}),
        fake.http.post("/models/nope/load"),
    ):
        assert answer.json()["detail"] == answer.json()["error"]["message"]
    assert "detail" not in fake.http.get("/v1/nope").json()


def test_5_4_litestars_own_validation_is_a_400_that_names_the_field(fake: Service) -> None:
    error = error_of(fake.http.post("/model/switch", json={"model_key": 5}), 400)

    assert error["param"] == "model_key"


# 5.5 models


def test_5_5_models_are_listed_from_memory_and_nothing_is_loaded(make_lab: MakeLab) -> None:
    lab = make_lab(
        models={"small": {"aliases": ["org/small:q4"]}, "absent": {"kind": ["embedding"]}}, missing=("absent",)
    )

    with lab.serve() as service:
        listing = service.http.get(MODELS).json()
        owner = service.http.get("/models").json()
        states = {row["state"] for row in service.http.get("/ps").json()["models"]}

    assert listing["object"] == "list"
    assert [(model["id"], model["object"]) for model in listing["data"]] == [("small", "model"), ("absent", "model")]
    for model in listing["data"]:
        assert type(model["created"]) is int
        assert model["owned_by"]
        assert (model["context_length"], model["meta"]["n_ctx"], model["status"]) == (1024, 1024, "stopped")
    assert [model["capabilities"] for model in listing["data"]] == [["chat"], ["embedding"]]
    assert (owner["object"], owner["data"], owner["current"]) == ("list", listing["data"], "small")
    assert [(entry["key"], entry["exists"]) for entry in owner["models"]] == [("small", True), ("absent", False)]
    assert states == {"stopped"}


@pytest.mark.parametrize("name", ["small", "org/small:q4", "org%2Fsmall%3Aq4", "default"])
def test_5_5_one_model_is_found_by_key_and_alias_slashes_and_colons_included(fake: Service, name: str) -> None:
    assert fake.http.get(f"{MODELS}/{name}").json()["id"] == "small"


def test_5_5_unknown_model_is_a_404(fake: Service) -> None:
    assert error_of(fake.http.get(f"{MODELS}/no/such:model"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/health", "/models", "/ps", MODELS, "/v1/models/small", "/schema"])
def test_5_5_head_is_get_without_a_body(fake: Service, path: str) -> None:
    answer = fake.http.head(path)

    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) > 0


# 5.6 embeddings, completions, misc


def test_5_6_embeddings_are_base64_little_endian_floats_where_asked(anything: Service) -> None:
    asked = {"model": "small", "input": ["a", "b"]}
    packed = anything.http.post(EMBEDDINGS, json={**asked, "encoding_format": "base64"}).json()["data"]
    plain = anything.http.post(EMBEDDINGS, json={**asked, "encoding_format": None}).json()["data"]

    for one, other in zip(packed, plain, strict=True):
        raw = base64.b64decode(one["embedding"], validate=True)
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(other["embedding"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "vectors"),
    [("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["one"], 1)],
    ids=["text", "texts", "tokens", "token lists", "one text"],
)
def test_5_6_embeddings_of_texts_and_of_tokens(anything: Service, given: Any, vectors: int) -> None:
    answer = anything.http.post(EMBEDDINGS, json={"model": "small", "input": given})

    assert answer.status_code == 200, answer.text
    assert [item["index"] for item in answer.json()["data"]] == list(range(vectors))


def test_5_6_embedding_of_a_text_that_fits_the_context(anything: Service) -> None:
    """llama-server embeds a text in one batch: one that is smaller than the context refuses texts that would fit."""
    answer = anything.http.post(EMBEDDINGS, json={"input": "word " * 900})

    assert answer.status_code == 200, answer.text


def test_5_6_embedding_of_a_text_beyond_the_context_is_a_400(served: Service) -> None:
    error = error_of(served.http.post(EMBEDDINGS, json={"input": "word " * 3000}), 400)

    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("prompt", ["One two", ["One two"], [1, 2, 3]], ids=["text", "texts", "tokens"])
def test_5_6_completions_of_text_and_of_tokens(anything: Service, prompt: Any) -> None:
    answer = anything.http.post(COMPLETIONS, json={"prompt": prompt, "max_tokens": 2, "suffix": None, "temperature": 0})

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"]


def test_5_6_model_that_serves_no_embeddings_says_the_line_to_add(make_lab: MakeLab) -> None:
    with make_lab().serve() as service:
        error = error_of(service.http.post(EMBEDDINGS, json={"input": "x"}), 400)

    assert "`kind: [chat, embedding]`" in error["message"]


def test_5_6_unknown_fields_and_headers_are_ignored(anything: Service) -> None:
    headers = {"x-stainless-lang": "python", "OpenAI-Organization": "o", "X-OpenWebUI-User-Name": "u"}
    fields = {"user": "u", "store": False, "metadata": {"a": 1}, "service_tier": "auto", "not_a_field": [1]}

    answer = anything.http.post(CHAT, json={"messages": HELLO, "max_tokens": 1, **fields}, headers=headers)

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_5_6_either_name_of_the_token_limit_counts(anything: Service, name: str) -> None:
    answer = anything.http.post(CHAT, json={"messages": HELLO, name: 2, "ignore_eos": True})

    assert answer.json()["usage"]["completion_tokens"] == 2


def test_5_6_developer_is_system_and_content_may_be_parts(anything: Service) -> None:
    messages = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there"}]},
    ]
    assert anything.chat(messages=messages, max_tokens=1).status_code == 200


def test_5_6_developer_reaches_the_engine_as_system(fake: Service) -> None:
    fake.chat(messages=[{"role": "developer", "content": "Be brief"}, *HELLO])

    assert [message["role"] for message in last_request_of(fake)["body"]["messages"]] == ["system", "user"]


def test_5_6_nulls_count_as_absent(anything: Service) -> None:
    nulls = dict.fromkeys(["temperature", "top_p", "n", "stop", "tools", "tool_choice", "stream_options", "seed"])

    answer = anything.chat(**nulls, model=None, max_tokens=1)

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", ["", "default", "small", "org/small:q4"])
def test_5_6_model_may_be_empty_default_a_key_or_an_alias(fake: Service, name: str) -> None:
    assert fake.chat(model=name).status_code == 200
    assert last_request_of(fake)["body"]["model"] == "small"


def test_5_6_json_schema_is_enforced(served: Service) -> None:
    schema = {"type": "object", "properties": {"sky": {"const": "blue"}}, "required": ["sky"]}
    form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": schema}}

    said = served.chat(response_format=form, max_tokens=40, temperature=0).json()["choices"][0]["message"]["content"]

    assert json.loads(said) == {"sky": "blue"}


@pytest.mark.parametrize("url", ["http://127.0.0.1/x.png", "https://example.com/x.png", "file:///etc/passwd", "x.png"])
def test_5_6_images_come_as_data_or_not_at_all(fake: Service, url: str) -> None:
    """llama-server would fetch a URL itself, from inside the network."""
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]

    error = error_of(fake.chat(messages=[{"role": "user", "content": parts}]), 400)

    assert error["param"] == "messages[0].content[1].image_url.url"


def test_5_6_fields_that_would_reach_into_the_engine_never_get_there(fake: Service) -> None:
    """n_discard alone has led to a write out of bounds in llama-server."""
    fields = {"n_discard": -1, "id_slot": 0, "lora": [{"id": 0, "scale": 1}], "return_progress": True, "nosuch": 1}
    fake.chat(**fields)
    assert not fields.keys() & last_request_of(fake)["body"].keys()

    fake.http.post(COMPLETIONS, json={"prompt": "x", "max_tokens": 1, **fields})
    assert not fields.keys() & last_request_of(fake)["body"].keys()

    fake.http.post(EMBEDDINGS, json={"input": "x", **fields})
    assert not fields.keys() & last_request_of(fake)["body"].keys()


def test_5_6_headers_of_a_client_never_reach_the_engine(fake: Service) -> None:
    """An X-Conversation-Id makes llama-server generate on for a client that has left."""
    headers = {"X-Conversation-Id": "c", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "User-Agent": "test"}
    fake.http.post(CHAT, json={"messages": HELLO, "max_tokens": 1}, headers=headers)

    assert last_request_of(fake)["headers"].keys() <= {"host", "content-type", "content-length"}


def test_5_6_empty_bearer_counts_as_no_key(make_lab: MakeLab, fake: Service) -> None:
    """Open WebUI sends one where it has no key."""

    def ask(url: str, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=BOUND_S)  # httpx refuses to
        with closing(connection):
            connection.request("GET", path, headers={"Authorization": "Bearer "})
            answer = connection.getresponse()
            return answer.status, json.load(answer)

    with make_lab().serve() as open_service:
        assert ask(open_service.url, MODELS)[0] == 200
    status, body = ask(fake.url, MODELS)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert "needs a key" in body["error"]["message"]
    assert ask(fake.url, "/health")[0] == 200


# 5.7 CORS, Host


@pytest.mark.parametrize("path", ["/health", "/models", "/model/switch", CHAT, MODELS, "/nope", "/v1/nope"])
def test_5_7_options_is_answered_on_every_route_without_a_key(make_lab: MakeLab, fake: Service, path: str) -> None:
    asked = {"origin": fake.url, "access-control-request-headers": "authorization, x-stainless-os"}
    answer = httpx.options(f"{fake.url}{path}", headers=asked)

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == fake.url
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert {"authorization", "content-type", "x-api-key", "x-stainless-os"} <= set(allowed.split(", "))
    assert "access-control-allow-credentials" not in answer.headers


def test_5_7_a_listed_page_may_read_answers_and_errors_and_other_pages_nothing(make_lab: MakeLab) -> None:
    lab = make_lab(server={"cors_origins": ["http://ui.lan:3000"]})
    with lab.serve() as service:
        for path, status in ((MODELS, 200), ("/v1/nope", 404), ("/health", 200), ("/nope", 404)):
            answer = service.http.get(path, headers={"origin": "http://ui.lan:3000"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "http://ui.lan:3000"
            assert "origin" in answer.headers["vary"].lower()

            refused = service.http.get(path, headers={"origin": "https://evil.example"})
            assert error_of(refused, 403)["code"] == "invalid_origin"
            assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.com", "localhost:8080@evil"])
def test_5_7_host_that_is_not_this_server_is_refused(fake: Service, host: str) -> None:
    assert error_of(fake.http.get("/health", headers={"host": host}), 403)["code"] == "invalid_host"


@pytest.mark.parametrize("host", ["localhost:8080", "[::1]:8080", "LOCALHOST", "localhost.", "127.0.0.1"])
def test_5_7_host_that_is_this_server_is_served(fake: Service, host: str) -> None:
    assert fake.http.get("/health", headers={"host": host}).status_code == 200
