"""Requests in the words of other APIs, as the chat that llama-server is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from app.api.anthropic import MessagesFields, read_count, read_message
from app.api.dialect import Asked
from app.api.media import check_media
from app.api.responses import ResponsesFields, read_response
from app.errors import BadRequestError
from tests.support.pictures import image_part, png

FUNCTION = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
PICTURE: str = image_part(png(4, 4))["image_url"]["url"]
DATA = PICTURE.partition(",")[2]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}


def response(**body: Any) -> dict[str, Any]:
    """What goes on to llama-server of a body of /v1/responses."""
    return sent(read_response, {"input": "Hello", **body})


def message(**body: Any) -> dict[str, Any]:
    """The same of /v1/messages."""
    return sent(read_message, {"max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}], **body})


def sent(read: Callable[[bytes], Asked], body: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(msgspec.json.encode(read(json.dumps(body).encode()).chat))
    return told


def refusal(read: Callable[..., object], body: dict[str, Any]) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        read(**body)
    return caught.value


def turn(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


DEEP = json.loads('{"a": ' * 200 + "1" + "}" * 200)
CALLED = {"type": "tool_use", "id": "1", "name": "add", "input": DEEP}


@pytest.mark.parametrize(
    ("ask", "field", "value"),
    [
        (response, "tools", [{"type": "function", "name": "add", "parameters": DEEP}]),
        (response, "text", {"format": {"type": "json_schema", "name": "x", "schema": DEEP}}),
        (message, "tools", [{"name": "add", "input_schema": DEEP}]),
        (message, "output_config", {"format": {"type": "json_schema", "schema": DEEP}}),
        (message, "messages", [turn("assistant", CALLED)]),
    ],
)
def test_what_clients_shape_freely_is_nested_only_so_deep(ask: Callable[..., Any], field: str, value: Any) -> None:
    with pytest.raises(BadRequestError, match="nested more than 128 deep"):
        ask(**{field: value})


def test_response_of_a_text_is_a_chat_of_one_message() -> None:
    told = response(instructions="Be brief", max_output_tokens=7, temperature=0.5, stream=True, model="small")

    assert told == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "stream": True,
    }


def test_items_of_one_turn_of_the_model_are_one_message() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    spoken = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see"}]}
    calls = [{"type": "function_call", "call_id": f"id{n}", "name": "add", "arguments": "{}"} for n in (0, 1)]
    output = {"type": "function_call_output", "call_id": "id0", "output": [{"type": "input_text", "text": "3"}]}
    items = [{"role": "user", "content": "Hi"}, thought, spoken, *calls, output, {"role": "assistant", "content": "3"}]

    user, model, tool, last = response(input=items)["messages"]

    assert user == {"role": "user", "content": "Hi"}
    assert (model["content"], model["reasoning_content"]) == ("Let me see", "hm")
    assert [(call["id"], call["function"]["name"]) for call in model["tool_calls"]] == [("id0", "add"), ("id1", "add")]
    assert tool == {"role": "tool", "content": "3", "tool_call_id": "id0"}
    assert last == {"role": "assistant", "content": "3"}


def test_two_texts_of_one_turn_stay_two_parts() -> None:
    items = [{"role": "assistant", "content": text} for text in ("one", "two")]

    [model] = response(input=items)["messages"]

    assert model["content"] == [said("one"), said("two")]


def test_thoughts_that_are_sealed_are_left_out() -> None:
    items = [{"type": "reasoning", "summary": [], "encrypted_content": "x"}, {"role": "user", "content": "Hi"}]

    assert response(input=items)["messages"] == [{"role": "user", "content": "Hi"}]


def test_what_developers_say_at_the_beginning_is_one_system_message() -> None:
    """Many templates refuse a second one."""
    developer = {"role": "developer", "content": [{"type": "input_text", "text": "Use tools"}]}

    told = response(instructions="Be brief", input=[developer, {"role": "user", "content": "Hi"}])

    assert told["messages"] == [
        {"role": "system", "content": "Be brief\n\nUse tools"},
        {"role": "user", "content": "Hi"},
    ]


def test_functions_of_a_response_are_tools_and_one_that_must_be_called_is_alone() -> None:
    tools = [{"type": "function", **FUNCTION}, {"type": "function", "name": "now", "strict": None}]

    free = response(tools=tools, tool_choice="auto", parallel_tool_calls=False)
    forced = response(tools=tools, tool_choice={"type": "function", "name": "now"})

    assert [tool["function"]["name"] for tool in free["tools"]] == ["add", "now"]
    assert free["tools"][0]["function"] == FUNCTION
    assert (free["tool_choice"], free["parallel_tool_calls"]) == ("auto", False)
    assert ([tool["function"]["name"] for tool in forced["tools"]], forced["tool_choice"]) == (["now"], "required")


def test_form_of_the_text_goes_on() -> None:
    """llama-server's own route leaves it out without a word."""
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    told = response(text={"format": form, "verbosity": "low"}, reasoning={"effort": "low", "summary": "auto"})

    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert told["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert told["reasoning_effort"] == "low"
    assert response(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in response(text={"format": {"type": "text"}})


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole input, or use /chat"),
        ({"conversation": "conv_1"}, "conversation", "use /chat"),
        ({"prompt": {"id": "p"}}, "prompt", "use /chat"),
        ({"background": True}, "background", "use /chat"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0].type", "'mcp'"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "needs a name"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type", "'file_search'"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name", "none of the request's tools"),
        ({"tool_choice": "required"}, "tool_choice", "has no tools"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "'grammar'"),
        ({"input": []}, "input", "length >= 1"),
        ({"input": [7]}, "input[0]", "object"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "'item_reference'"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type", "'computer_call'"),
        ({"input": [{"role": "user"}]}, "input[0]", "needs a role and content"),
        ({"input": [{"role": "root", "content": "x"}]}, "input[0].role", "root"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0]", "call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "input[0]", "needs an output"),
        (
            {"input": [{"type": "function_call", "name": "x", "call_id": "y", "arguments": "{"}]},
            *("input[0].arguments", "must be JSON"),
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
            *("input[0].content[0].type", "'input_file'"),
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]},
            *("input[0].content[0].image_url", "fetches nothing"),
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]", "image_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]", "its text"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_response_that_cannot_be_served_is_refused_by_name(body: dict[str, Any], param: str, words: str) -> None:
    error = refusal(response, body)

    assert error.param == param
    assert words in error.message


def test_fields_that_change_nothing_are_passed_over() -> None:
    more = {"store": True, "metadata": {"a": "b"}, "include": ["x"], "truncation": "auto", "user": "u", "n_discard": 1}

    assert response(**more) == response()
    assert message(metadata={"user_id": "u"}, service_tier="auto", id_slot=0, cache_control={}) == message()


def test_message_is_a_chat_with_its_system_prompt_first() -> None:
    told = message(system="Be brief", stop_sequences=["a"], top_k=3, temperature=0.5, top_p=0.9, stream=True)

    assert told == {
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}],
        "max_tokens": 9,
        "stop": ["a"],
        "top_k": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
    }


def test_stamp_that_differs_in_each_request_is_left_out_of_the_system_prompt() -> None:
    """With it at the beginning, no prompt would begin as the one before did."""
    stamp = said("x-anthropic-billing-header: cc_version=2.1; cch=a5145;")
    blocks = [stamp, {**said("You help."), "cache_control": {"type": "ephemeral"}}]

    assert message(system=blocks)["messages"][0] == {"role": "system", "content": "You help."}


def test_what_tools_found_and_what_the_user_says_stay_in_order() -> None:
    """llama-server's own route puts the user's words before what the tool found."""
    call = {"type": "tool_use", "id": "id0", "name": "add", "input": {"a": 1}}
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    found = {"type": "tool_result", "tool_use_id": "id0", "content": [said("3")], "is_error": False}
    sealed = {"type": "redacted_thinking", "data": "x"}
    turns = [turn("user", said("Hi")), turn("assistant", thought, sealed, said("Let me see"), call)]

    told = message(messages=[*turns, turn("user", found, said("Go on"))])["messages"]

    function = {"name": "add", "arguments": '{"a":1}'}
    assert told == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Let me see",
            "tool_calls": [{"function": function, "id": "id0", "type": "function"}],
            "reasoning_content": "hm",
        },
        {"role": "tool", "content": "3", "tool_call_id": "id0"},
        {"role": "user", "content": "Go on"},
    ]


@pytest.mark.parametrize(
    ("choice", "told", "offered"),
    [
        ({"type": "auto"}, "auto", ["add", "now"]),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", ["add", "now"]),
        ({"type": "none"}, "none", ["add", "now"]),
        ({"type": "tool", "name": "now"}, "required", ["now"]),
    ],
)
def test_choice_of_a_tool_goes_on(choice: dict[str, Any], told: str, offered: list[str]) -> None:
    """llama-server's own route knows neither none nor one tool by its name."""
    tools = [{"name": "add", "input_schema": {"type": "object"}}, {"name": "now", "type": "custom", "description": "d"}]

    body = message(tools=tools, tool_choice=choice)

    assert (body["tool_choice"], [tool["function"]["name"] for tool in body["tools"]]) == (told, offered)
    assert body.get("parallel_tool_calls") == (False if "disable_parallel_tool_use" in choice else None)


def test_thinking_and_form_of_a_message_go_on() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}

    assert message(thinking={"type": "enabled", "budget_tokens": 1024})["thinking_budget_tokens"] == 1024
    assert message(thinking={"type": "disabled"})["chat_template_kwargs"] == {"enable_thinking": False}
    assert message(thinking={"type": "adaptive"}) == message()
    told = message(output_config={"format": form, "effort": "low"})
    assert told["response_format"] == {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"max_tokens": None}, "max_tokens", "int"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": [turn("root")]}, "messages[0].role", "root"),
        ({"messages": [turn("user", 7)]}, "messages[0].content[0]", "object"),
        ({"messages": [turn("user", {"type": "document"})]}, "messages[0].content[0].type", "'document'"),
        ({"messages": [turn("assistant", IMAGE)]}, "messages[0].content[0].type", "'image'"),
        ({"messages": [turn("user", {"type": "text"})]}, "messages[0].content[0].text", "needs text"),
        ({"messages": [turn("user", {"type": "tool_result"})]}, "messages[0].content[0].tool_use_id", "tool_use_id"),
        ({"messages": [turn("assistant", {"type": "tool_use", "id": "x"})]}, "messages[0].content[0].name", "name"),
        ({"messages": [turn("assistant", {"type": "tool_use", "input": "x"})]}, "messages[0].content[0].input", ""),
        ({"system": [{"type": "image"}]}, "system[0].type", "image"),
        ({"system": 7}, "system", "int"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type", "web_search_20250305"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type", "bash_20250124"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name", "none of the request's tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "has no tools"),
        (
            {"messages": [turn("user", {"type": "image", "source": {"type": "url", "url": "http://x"}})]},
            *("messages[0].content[0].source", "fetches nothing"),
        ),
        (
            {"messages": [turn("user", {"type": "image", "source": {"type": "base64", "media_type": "text/html"}})]},
            *("messages[0].content[0].source.media_type", "text/html"),
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_message_that_cannot_be_served_is_refused_by_name(body: dict[str, Any], param: str, words: str) -> None:
    error = refusal(message, body)

    assert error.param == param
    assert words in error.message


def test_message_says_how_long_its_answer_may_be_and_a_count_does_not() -> None:
    """As with Anthropic: what works here works there."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()

    with pytest.raises(BadRequestError) as caught:
        read_message(body)
    assert caught.value.param == "max_tokens"
    assert read_count(body).chat.messages[0].content == "Hello"


def test_images_are_noted_with_the_field_that_they_came_in() -> None:
    shown = {"type": "input_image", "image_url": PICTURE, "detail": "auto"}
    output = {"type": "function_call_output", "call_id": "x", "output": [shown]}
    found = {"type": "tool_result", "tool_use_id": "x", "content": [said("see"), IMAGE]}

    asked = read_response(json.dumps({"input": [{"role": "user", "content": [shown]}, output]}).encode())
    messages = [turn("user", IMAGE, found)]
    told = read_message(json.dumps({"max_tokens": 1, "messages": messages}).encode())

    assert [each.where for each in asked.media] == ["input[0].content[0].image_url", "input[1].output[0].image_url"]
    assert [each.where for each in told.media] == [
        "messages[0].content[0].source.data",
        "messages[0].content[1].content[1].source.data",
    ]
    for each in (*asked.media, *told.media):
        assert each.text == PICTURE
    check_media(asked.media)
    check_media(told.media)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_TYPES = ["message", "function_call", "function_call_output", "reasoning", "text", "image", "tool_use", "tool_result"]
_KEYS = ["role", "content", "name", "call_id", "id", "tool_use_id", "arguments", "output", "input", "text", "source"]
_ITEM = st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4).flatmap(
    lambda item: st.sampled_from(_TYPES).map(lambda kind: {"role": "user", **item, "type": kind})
)
_NAMES = st.sampled_from([*ResponsesFields.__struct_fields__, *MessagesFields.__struct_fields__])
_TOLD = st.lists(st.one_of(_ITEM, _ITEM.map(lambda item: turn("assistant", item)), _JSON), min_size=1, max_size=3)


@hypothesis.given(st.dictionaries(_NAMES, _JSON, max_size=4), _TOLD)
def test_any_values_are_read_and_can_be_sent_or_are_refused(body: dict[str, Any], told: list[Any]) -> None:
    """What passes must also encode: a value that cannot go on would be a 500."""
    for read, named in ((read_response, "input"), (read_message, "messages"), (read_count, "messages")):
        with suppress(BadRequestError):
            msgspec.json.encode(read(json.dumps({"max_tokens": 1, named: told, **body}).encode()).chat)


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (read_response, read_message, read_count):
        with suppress(BadRequestError):
            read(body)
