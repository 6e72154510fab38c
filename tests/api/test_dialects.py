"""Answers in the words of other APIs: every event and every whole answer is one that the official types know."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from app.api.anthropic import read_count, read_message
from app.api.dialect import Asked, Telling
from app.api.errors import answer_for
from app.api.responses import read_response
from app.chat.stream import CallPart, Fragment, Generated, Piece
from app.errors import BadRequestError, UpstreamError

RESPONSES: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGES: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
PIECES = [
    Piece(reasoning="Let me "),
    Piece(reasoning="think."),
    Piece("Hel"),
    Piece("lo"),
    Piece(calls=(Fragment(0, "id0", CallPart("add", "")),)),
    Piece(calls=(Fragment(0, None, CallPart(None, '{"a": 1}')),)),
    Piece(calls=(Fragment(1, "id1", CallPart("now", None)),)),
]
FUNCTION = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}


def response_telling() -> Telling:
    asked = read_response(json.dumps({"input": "x", "instructions": "be brief", "tools": [FUNCTION]}).encode())
    return asked.telling("small")


def message_telling() -> Telling:
    asked = read_message(json.dumps({"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}).encode())
    return asked.telling("small")


def generated(finish_reason: str = "tool_calls") -> Generated:
    return Generated(99, "llama-server", finish_reason, prompt_tokens=10, completion_tokens=5, cached_tokens=4)


def events(told: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of each event; each has two lines and says its name twice."""
    found = []
    *blocks, last = told.decode().split("\n\n")
    assert last == ""
    for block in blocks:
        name, data = block.split("\n")
        content = json.loads(data.removeprefix("data: "))
        assert name == f"event: {content['type']}"
        found.append((content["type"], content))
    return found


def told_by(telling: Telling, finish_reason: str = "tool_calls", pieces: list[Piece] = PIECES) -> bytes:
    return b"".join([telling.begin(), *map(telling.take, pieces), telling.end(generated(finish_reason))])


def test_events_of_a_response_are_those_that_openai_describes() -> None:
    told = events(told_by(response_telling()))

    for _, content in told:
        RESPONSES.validate_python(content)
    assert [content["sequence_number"] for _, content in told] == list(range(len(told)))
    assert [name.removeprefix("response.") for name, _ in told] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_items_of_a_response_are_the_same_in_events_and_in_the_end() -> None:
    told = events(told_by(response_telling()))
    done = [content["item"] for name, content in told if name == "response.output_item.done"]
    added = [content for name, content in told if name == "response.output_item.added"]
    places = [content["output_index"] for content in added]

    assert told[-1][1]["response"]["output"] == done
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call", "function_call"]
    assert [content["item"]["id"] for content in added] == [item["id"] for item in done]
    assert places == [0, 1, 2, 3]
    assert (done[2]["call_id"], done[2]["name"], done[2]["arguments"]) == ("id0", "add", '{"a": 1}')
    assert done[3]["arguments"] == "{}"
    parts = [content["part"] for name, content in told if name == "response.content_part.added"]
    assert [part["text"] for part in parts] == ["", ""]


def test_whole_response_is_one_that_openai_describes_and_says_what_was_asked() -> None:
    telling = response_telling()
    told_by(telling)

    answer = Response.model_validate(telling.whole(generated()))

    assert (answer.status, answer.output_text, answer.model, answer.instructions) == (
        *("completed", "Hello", "small"),
        "be brief",
    )
    assert answer.usage
    assert (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens) == (10, 4)
    assert (answer.usage.output_tokens, answer.usage.total_tokens) == (5, 15)
    assert [tool.type for tool in answer.tools] == ["function"]


@pytest.mark.parametrize(
    ("finish_reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_response_that_was_cut_says_so(finish_reason: str, why: str) -> None:
    name, content = events(told_by(response_telling(), finish_reason, PIECES[:4]))[-1]

    answer = RESPONSES.validate_python(content).response
    assert (name, answer.status, answer.incomplete_details.reason) == ("response.incomplete", "incomplete", why)
    assert [item.status for item in answer.output] == ["completed", "incomplete"]


def test_response_that_breaks_off_is_failed_and_keeps_what_was_said() -> None:
    telling = response_telling()
    telling.begin()
    for piece in PIECES[:3]:
        telling.take(piece)

    [(name, content)] = events(telling.failed(answer_for(UpstreamError("it broke off"))))

    answer = RESPONSES.validate_python(content).response
    assert (name, answer.status, answer.error.code) == ("response.failed", "failed", "server_error")
    assert answer.error.message == "it broke off"
    assert answer.output[1].content[0].text == "Hel"


def test_events_of_a_message_are_those_that_anthropic_describes() -> None:
    told = events(told_by(message_telling()))

    for _, content in told:
        MESSAGES.validate_python(content)
    assert [name for name, _ in told] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert [content["index"] for _, content in told if "index" in content] == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 2
    started = [content["content_block"] for name, content in told if name == "content_block_start"]
    assert started == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "id0", "name": "add", "input": {}},
        {"type": "tool_use", "id": "id1", "name": "now", "input": {}},
    ]


def test_message_ends_with_why_and_with_what_it_took() -> None:
    content = events(told_by(message_telling()))[-2][1]

    assert content["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    usage = {"input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 5}
    assert content["usage"] == usage


def test_whole_message_is_one_that_anthropic_describes() -> None:
    telling = message_telling()
    told_by(telling)

    message = Message.model_validate(telling.whole(generated()))

    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"a": 1}, {}]
    assert (message.model, message.stop_reason, message.usage.output_tokens) == ("small", "tool_use", 5)


@pytest.mark.parametrize(
    ("finish_reason", "pieces", "stop_reason"),
    [
        ("stop", PIECES[:4], "end_turn"),
        ("stop", PIECES, "tool_use"),
        ("length", PIECES, "max_tokens"),
        ("content_filter", PIECES[:4], "refusal"),
    ],
)
def test_message_says_why_it_ended(finish_reason: str, pieces: list[Piece], stop_reason: str) -> None:
    telling = message_telling()

    assert f'"stop_reason":"{stop_reason}"'.encode() in told_by(telling, finish_reason, pieces)
    assert telling.whole(generated(finish_reason))["stop_reason"] == stop_reason


@pytest.mark.parametrize("cut", ['{"a": ', "[1]", "7"])
def test_arguments_that_are_no_object_are_told_as_none(cut: str) -> None:
    """An answer that max_tokens cut in the middle of a call: Anthropic's shape has no place for half an object."""
    telling = message_telling()
    told_by(telling, "length", [Piece(calls=(Fragment(0, "id0", CallPart("add", cut)),))])

    [block] = telling.whole(generated("length"))["content"]
    assert block["input"] == {}


@pytest.mark.parametrize("begin", [response_telling, message_telling])
def test_answer_without_a_word_is_an_answer(begin: Callable[[], Telling]) -> None:
    telling = begin()
    told = events(told_by(telling, "stop", []))

    assert told[-1][0] in {"response.completed", "message_stop"}
    assert telling.blocks.all == []


def test_signs_of_life_are_events_that_clients_know() -> None:
    [(name, content)] = events(response_telling().alive())
    RESPONSES.validate_python(content)

    assert name == "response.in_progress"
    assert message_telling().alive() == b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.mark.parametrize("read", [read_message, read_count])
def test_tool_results_count_as_the_messages_that_they_become(read: Callable[[bytes], Asked]) -> None:
    """One message may hold any number, and the model's template takes time in proportion to their square."""

    def body(results: int) -> bytes:
        result = {"type": "tool_result", "tool_use_id": "a"}
        return json.dumps({"max_tokens": 9, "messages": [{"role": "user", "content": [result] * results}]}).encode()

    assert len(read(body(10_000)).chat.messages) == 10_000
    with pytest.raises(BadRequestError, match=r"these are 10001 messages, .* 10000 are the most") as refused:
        read(body(10_001))
    assert refused.value.param == "messages"


def test_items_of_one_turn_become_one_message_in_their_order() -> None:
    call = {"type": "function_call", "name": "add", "arguments": "{}"}
    text = {"type": "output_text"}
    items = [
        {"role": "assistant", "content": "a"},
        {**call, "call_id": "1"},
        {"role": "assistant", "content": [{**text, "text": "b"}, {**text, "text": "c"}]},
        {**call, "call_id": "2"},
        {"role": "assistant", "content": "d"},
    ]
    [message] = read_response(json.dumps({"input": items}).encode()).chat.messages

    assert isinstance(message.content, list)
    assert [part.text for part in message.content] == ["a", "b", "c", "d"]
    assert [called.id for called in message.tool_calls or ()] == ["1", "2"]
