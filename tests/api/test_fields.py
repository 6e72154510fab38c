"""What a /v1 body may hold: the allow-list is decoded, checked, and encoded anew."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from app.api.fields import ChatFields, CompletionFields, EmbeddingFields, Fields, RerankFields, read_fields
from app.errors import BadRequestError

HELLO = [{"role": "user", "content": "Hello"}]


def read(kind: type[Fields] = ChatFields, **body: Any) -> Any:
    given = {"messages": HELLO} if kind is ChatFields else {}
    return read_fields(json.dumps({**given, **body}).encode(), kind)


def sent(kind: type[Fields] = ChatFields, **body: Any) -> dict[str, Any]:
    """What goes on to llama-server."""
    forwarded: dict[str, Any] = json.loads(msgspec.json.encode(read(kind, **body)))
    return forwarded


def refusal(kind: type[Fields] = ChatFields, **body: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        read(kind, **body)
    return caught.value


def calling(**call: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": None, "tool_calls": [call]}]


def test_known_fields_go_on_as_they_are() -> None:
    body: dict[str, Any] = {
        "messages": HELLO,
        "temperature": 0.5,
        "max_tokens": 7,
        "stop": ["a"],
        "stream": True,
        "seed": 1,
    }

    assert sent(**body) == body


def test_unknown_fields_are_dropped_and_not_refused() -> None:
    assert sent(n_discard=-1, id_slot=0, lora=[], user="u", nosuch=1) == {"messages": HELLO}


def test_unknown_fields_of_messages_parts_and_calls_are_dropped_too() -> None:
    parts = [{"type": "text", "text": "x", "cache_control": 1}]
    [message] = sent(messages=[{"role": "user", "content": parts, "refusal": None}])["messages"]

    assert message == {"role": "user", "content": [{"type": "text", "text": "x"}]}


def test_nulls_count_as_absent() -> None:
    nulls: dict[str, Any] = dict.fromkeys(
        ["temperature", "max_tokens", "stop", "n", "tools", "response_format", "stream", "model"]
    )

    assert sent(**nulls) == {"messages": HELLO}


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        (ChatFields, {"temperature": "hot"}, "temperature"),
        (ChatFields, {"temperature": 11}, "temperature"),
        (ChatFields, {"n": 2}, "n"),
        (ChatFields, {"messages": []}, "messages"),
        (ChatFields, {"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
        (ChatFields, {"messages": [{"content": "x"}]}, "messages[0].role"),
        (ChatFields, {"tools": [7]}, "tools[0]"),
        (ChatFields, {"tools": [{"type": "function"}]}, "tools[0].function"),
        (ChatFields, {"reasoning_format": "nosuch"}, "reasoning_format"),
        (CompletionFields, {}, "prompt"),
        (CompletionFields, {"prompt": {}}, "prompt"),
        (EmbeddingFields, {"input": []}, "input"),
        (EmbeddingFields, {"input": [-1]}, "input[0]"),
        (EmbeddingFields, {"input": "x", "encoding_format": "hex"}, "encoding_format"),
        (RerankFields, {"documents": ["x"]}, "query"),
        (RerankFields, {"query": "", "documents": ["x"]}, "query"),
        (RerankFields, {"query": ["x"], "documents": ["x"]}, "query"),
        (RerankFields, {"query": "x"}, "documents"),
        (RerankFields, {"query": "x", "documents": "x"}, "documents"),
        (RerankFields, {"query": "x", "documents": []}, "documents"),
        (RerankFields, {"query": "x", "documents": ["x"] * 1001}, "documents"),
        (RerankFields, {"query": "x", "documents": ["x", 7]}, "documents[1]"),
        (RerankFields, {"query": "x", "documents": [None]}, "documents[0]"),
        (RerankFields, {"query": "x", "documents": [{"title": "x"}]}, "documents[0].text"),
        (RerankFields, {"query": "x", "documents": [{"text": ["x"]}]}, "documents[0].text"),
        (RerankFields, {"query": "x", "documents": ["x"], "top_n": 0}, "top_n"),
        (RerankFields, {"query": "x", "documents": ["x"], "top_n": -1}, "top_n"),
        (RerankFields, {"query": "x", "documents": ["x"], "return_documents": "yes"}, "return_documents"),
        (RerankFields, {"query": "x" * 4001, "documents": ["x"] * 1000}, "query"),
    ],
)
def test_refusal_names_the_field_at_fault(kind: type[Fields], body: dict[str, Any], param: str) -> None:
    assert refusal(kind, **body).param == param


def test_developer_becomes_system() -> None:
    [message] = sent(messages=[{"role": "developer", "content": "Be brief"}])["messages"]

    assert message["role"] == "system"


def test_call_in_the_history_keeps_its_type_which_llama_server_insists_on() -> None:
    function = {"name": "add", "arguments": "{}"}
    for given in ({"type": "function"}, {}):
        [message] = sent(messages=calling(function=function, **given))["messages"]
        assert message["tool_calls"] == [{"function": function, "type": "function"}]


def test_id_of_a_call_goes_on_unless_it_is_null() -> None:
    function = {"name": "add", "arguments": "{}"}
    for given, kept in (("call0", "call0"), (None, None)):
        [message] = sent(messages=calling(function=function, id=given))["messages"]
        assert message["tool_calls"][0].get("id") == kept
        assert ("id" in message["tool_calls"][0]) == (kept is not None)


@pytest.mark.parametrize("arguments", ["{", "{'a': 1}", "no", '{"a": NaN}', "[" * 100_000])
def test_arguments_in_the_history_that_are_no_json_are_named(arguments: str) -> None:
    error = refusal(messages=calling(function={"name": "add", "arguments": arguments}))

    assert error.param == "messages[0].tool_calls[0].function.arguments"
    assert len(error.message) < 300


DEEP = json.loads('{"a": ' * 200 + "1" + "}" * 200)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("response_format", {"type": "json_schema", "json_schema": {"schema": DEEP}}, "response_format"),
        ("json_schema", DEEP, "json_schema"),
        ("chat_template_kwargs", DEEP, "chat_template_kwargs"),
        ("logit_bias", DEEP, "logit_bias"),
        ("tool_choice", DEEP, "tool_choice"),
        ("stream_options", DEEP, "stream_options"),
        (
            "tools",
            [{"type": "function", "function": {"name": "add", "parameters": DEEP}}],
            "tools[0].function.parameters",
        ),
        (
            "messages",
            calling(function={"name": "add", "arguments": json.dumps(DEEP)}),
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_clients_shape_freely_is_nested_only_so_deep(field: str, value: Any, param: str) -> None:
    """llama-server dies of a schema of 20,000 levels; Python's own bound was a thousand, and is ten thousand now."""
    error = refusal(**{field: value})

    assert error.param == param
    assert "nested more than 128 deep" in error.message


ADD = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize("choice", ["required", "any", {"type": "function", "function": {"name": "add"}}, {}, 0, True])
def test_call_that_is_asked_for_needs_a_tool(choice: Any) -> None:
    """llama-server would answer with words, and a client that waits for a call would wait for ever."""
    none: tuple[dict[str, Any], ...] = ({}, {"tools": []}, {"tools": None}, {"server_tools": []})
    for tools in none:
        error = refusal(tool_choice=choice, **tools)
        assert error.param == "tool_choice"
        assert "the request has no tools" in error.message
    assert sent(tool_choice=choice, tools=[ADD])["tool_choice"] == choice
    assert read(tool_choice=choice, server_tools=["now"]).tool_choice == choice


@pytest.mark.parametrize("choice", ["none", "auto", None])
def test_choice_that_asks_for_no_call_needs_no_tool(choice: Any) -> None:
    assert "tools" not in sent(tool_choice=choice)


@pytest.mark.parametrize("arguments", ["{}", "", "null", '{"a": [1]}', "5"])
def test_arguments_in_the_history_that_are_json_pass(arguments: str) -> None:
    assert sent(messages=calling(function={"name": "add", "arguments": arguments}))


@pytest.mark.parametrize("kind", ["text", "image_url", "input_audio"])
def test_part_without_what_it_says_it_is_is_refused(kind: str) -> None:
    """llama-server answers it with a 500."""
    error = refusal(messages=[{"role": "user", "content": [{"type": kind}]}])

    assert error.param == "messages[0].content[0]"


@pytest.mark.parametrize(
    "url", ["http://x/y.png", "HTTP://x", "file:///x", "", "//x/y", " data:x", "DATA:image/png;base64,"]
)
def test_image_that_is_not_inside_the_message_is_refused(url: str) -> None:
    error = refusal(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])

    assert error.param == "messages[0].content[0].image_url.url"


def test_tools_go_on_with_what_is_known_of_them() -> None:
    function = {"name": "add", "description": "adds", "parameters": {"type": "object", "x-own": 1}}
    [tool] = sent(tools=[{"type": "function", "function": {**function, "nosuch": 1}, "cache_control": {}}])["tools"]

    assert tool == {"type": "function", "function": function}


@pytest.mark.parametrize("given", ["x", ["x", "y"], [1, 2], [[1], [2, 3]]])
def test_texts_may_be_one_or_many_text_or_tokens(given: Any) -> None:
    assert sent(EmbeddingFields, input=given)["input"] == given
    assert sent(CompletionFields, prompt=given)["prompt"] == given


def test_documents_are_bare_texts_once_they_were_read() -> None:
    """llama-server takes no other; and what some clients send beside them does not go on."""
    documents = ["a", {"text": "b", "id": 7}]
    body = sent(RerankFields, query="q", documents=documents, texts=["c"], rank_fields=["title"], top_n=None)

    assert body == {"query": "q", "documents": ["a", "b"]}


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for kind in (ChatFields, CompletionFields, EmbeddingFields, RerankFields):
        with suppress(BadRequestError):
            read_fields(body, kind)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_NAMES = st.sampled_from(
    [*ChatFields.__struct_fields__, *CompletionFields.__struct_fields__, "input", "query", "documents"]
)


@hypothesis.given(st.dictionaries(_NAMES, _JSON, max_size=4))
def test_any_values_are_read_and_can_be_sent_or_are_refused(body: dict[str, Any]) -> None:
    """What passes must also encode: a value that cannot go on would be a 500."""
    for kind in (ChatFields, CompletionFields, EmbeddingFields, RerankFields):
        try:
            fields = read_fields(json.dumps(body).encode(), kind)
        except BadRequestError:
            continue
        msgspec.json.encode(fields)
