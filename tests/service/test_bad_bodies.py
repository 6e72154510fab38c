"""Whatever is sent as a body, the answer is a 400 in shape: never a 500, and never a service that is gone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.service import CHAT, Service

ROUTES = {
    CHAT: b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "seed": %b}',
    "/v1/completions": b'{"prompt": "x", "max_tokens": 1, "seed": %b}',
    "/v1/embeddings": b'{"input": %b}',
    "/v1/responses": b'{"input": "x", "max_output_tokens": 1, "temperature": %b}',
    "/v1/messages": b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "temperature": %b}',
    "/v1/messages/count_tokens": b'{"messages": [{"role": "user", "content": %b}]}',
    "/v1/rerank": b'{"query": "x", "documents": ["y", %b]}',
    "/model/switch": b'{"model_key": %b}',
    "/chat": b'{"messages": [], "temperature": %b}',
    "/command": b'{"command": %b}',
}
"""Every route that reads a body, with a hole for a value that is none."""

NO_JSON = {
    "nothing": b"",
    "blank": b" ",
    "words": b"hello",
    "half": b'{"messages": [',
    "a comma too many": b'{"model": "small",}',
    "two values": b"{} {}",
    "bad UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "small"}'.encode("utf-16"),
    "NUL": b'{"model": "\x00"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and closed": b'{"extra": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
}
NO_OBJECT = {"null": b"null", "number": b"7", "text": b'"x"', "list": b"[]", "empty object": b"{}"}
NO_VALUE = {
    "NaN": b"NaN",
    "infinity": b"Infinity",
    "lone surrogate": b'"\\ud800"',
    "5,000 digits": b"1" * 5_000,
    "5,000 digits, negative": b"-" + b"1" * 5_000,
    "huge exponent": b"1e999999",
    "object": b'{"a": 1}',
    "true": b"true",
    "deep": b"[" * 3_000 + b"]" * 3_000,
}


def assert_is_400(service: Service, path: str, body: bytes) -> None:
    answer = service.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, f"{answer.status_code} {answer.text}"
    error: dict[str, Any] = answer.json()["error"]
    keys = {"message", "type"} if path.startswith("/v1/messages") else {"message", "type", "param", "code"}
    assert error.keys() >= keys
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 1_000, "an error repeats no body"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("body", [*NO_JSON.values(), *NO_OBJECT.values()], ids=[*NO_JSON, *NO_OBJECT])
def test_body_that_is_no_json_object_is_a_400(fake: Service, path: str, body: bytes) -> None:
    assert_is_400(fake, path, body)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("value", NO_VALUE.values(), ids=NO_VALUE)
def test_value_that_cannot_be_meant_is_a_400(fake: Service, path: str, value: bytes) -> None:
    assert_is_400(fake, path, ROUTES[path] % value)


@pytest.mark.parametrize("path", ROUTES)
def test_body_declared_as_something_else_is_a_415(fake: Service, path: str) -> None:
    """A page of any site can send text/plain without asking; JSON it cannot."""
    answer = fake.http.post(path, content=ROUTES[path] % b"1", headers={"content-type": "text/plain"})

    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "x", "tool_calls": "no"}],
        [{"role": "assistant", "tool_calls": [{"function": {}}]}],
        [{"role": "user", "content": [{"type": "video"}]}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "input_audio"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
        [None],
        ["x"],
        [[]],
        [{"role": "user"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": "x"}] * 10_001,
    ],
    ids=lambda messages: str(messages)[:60],
)
def test_strange_messages_are_a_400_or_served_but_never_a_500(anything: Service, messages: Any) -> None:
    answer = anything.chat(messages=messages, max_tokens=1)

    assert answer.status_code in {200, 400}, answer.text
    assert answer.status_code == 200 or answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "fields",
    [
        {"grammar": "root ::= ("},
        {"json_schema": {"type": "nosuch"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}}},
        {"response_format": "text"},
        {"tools": [{"type": "function"}]},
        {"tools": [7]},
        {"tool_choice": {"type": "nosuch"}},
        {"logit_bias": "x"},
        {"logit_bias": [[1, "x"]]},
        {"samplers": ["nosuch"]},
        {"chat_template_kwargs": 5},
        {"reasoning_format": "nosuch"},
        {"stream_options": {"include_usage": "yes"}},
        {"dry_sequence_breakers": []},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": -(2**63)},
        {"n_probs": 5, "stream": True},
        {"logprobs": True, "top_logprobs": 2},
        {"mirostat": 2},
    ],
    ids=str,
)
def test_strange_fields_are_a_400_or_served_and_the_engine_lives_on(served: Service, fields: dict[str, Any]) -> None:
    """What AirLab lets through reaches C++: none of it may cost anybody their engine."""
    served.chat(max_tokens=1)
    engine = served.engine()

    answer = served.chat(max_tokens=1, **fields)

    assert answer.status_code in {200, 400}, answer.text
    assert engine.alive
    assert served.chat(max_tokens=1).status_code == 200


CALL = {"type": "function_call", "call_id": "x", "name": "f", "arguments": "[1]"}
USE = {"type": "tool_use", "id": "x", "name": "f", "input": {"a": [None]}}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"input": [CALL]}),
        ("/v1/responses", {"input": [CALL, CALL, {"role": "assistant", "content": ""}]}),
        ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "none", "output": ""}]}),
        ("/v1/responses", {"input": [{"role": "system", "content": []}]}),
        ("/v1/responses", {"input": [{"type": "reasoning", "content": [{"type": "x", "text": "hm"}]}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": "x", "type": None}]}),
        ("/v1/responses", {"text": {"format": {"type": "json_schema"}}}),
        ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"$ref": "#/no"}}}}),
        ("/v1/responses", {"tools": [{"type": "function", "name": "f", "parameters": {"type": "nosuch"}}]}),
        ("/v1/responses", {"tools": [{"type": "function", "name": "f", "parameters": 7}], "tool_choice": "required"}),
        ("/v1/responses", {"tool_choice": "required"}),
        ("/v1/responses", {"reasoning": {"effort": "nosuch"}}),
        ("/v1/messages", {"messages": [{"role": "assistant", "content": [USE, USE]}]}),
        ("/v1/messages", {"messages": [{"role": "assistant", "content": []}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": ""}]}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": ""}], "system": []}),
        ("/v1/messages", {"messages": [{"role": "system", "content": "x"}]}),
        ("/v1/messages", {"stop_sequences": [""]}),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 0}}),
        ("/v1/messages", {"thinking": {"type": "disabled"}}),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema", "schema": None}}}),
        ("/v1/messages", {"tools": [{"name": "", "input_schema": []}], "tool_choice": {"type": "any"}}),
        ("/v1/messages/count_tokens", {"tools": [{"name": "f"}], "tool_choice": {"type": "none"}}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "assistant", "content": [USE]}]}),
    ],
    ids=str,
)
def test_strange_words_of_other_apis_are_a_400_or_served_and_the_engine_lives_on(
    served: Service, path: str, fields: dict[str, Any]
) -> None:
    served.chat(max_tokens=1)
    engine = served.engine()
    whole = {"input": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "max_output_tokens": 1}

    answer = served.http.post(path, json=whole | fields)

    assert answer.status_code in {200, 400}, answer.text
    assert answer.status_code == 200 or answer.json()["error"]["type"] == "invalid_request_error"
    assert engine.alive
    assert served.chat(max_tokens=1).status_code == 200
