"""OpenAI's ``responses`` and Anthropic's package, unchanged, against AirLab on the engines that really generate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.support.service import USE_KEY, Service

HELLO: list[Any] = [{"role": "user", "content": "Say hello"}]
COLD: dict[str, Any] = {"temperature": 0}
"""Anthropic's package has no argument for it any more."""


@pytest.fixture
def client(served: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=USE_KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def claude(served: Service) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key=USE_KEY, max_retries=0, timeout=60) as client:
        yield client


def test_response_has_text_usage_and_why_it_ended(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="small", input="Say hello", max_output_tokens=4, temperature=0)

    assert (answer.model, answer.status) == ("small", "incomplete")
    assert answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text
    assert answer.usage
    assert answer.usage.output_tokens == 4
    assert answer.usage.total_tokens == answer.usage.input_tokens + 4


def test_streamed_response_is_the_whole_one(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "org/small:q4", "input": "Say hello", "temperature": 0}
    whole = client.responses.create(**asked)

    with client.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert (final.status, final.output_text, final.model) == ("completed", whole.output_text, "small")


def test_response_goes_on_from_the_items_of_the_one_before(client: openai.OpenAI) -> None:
    first = client.responses.create(model="small", input="Say hello", temperature=0, max_output_tokens=8)
    items: Any = [*HELLO, *first.output, {"role": "user", "content": "Again"}]

    second = client.responses.create(model="small", input=items, temperature=0, max_output_tokens=4)

    assert first.usage
    assert second.usage
    assert second.usage.input_tokens > first.usage.input_tokens + 8


def test_response_keeps_to_the_form_that_it_was_asked_for(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    form: Any = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}

    answer = client.responses.create(model="small", input="Say yes", text=form, temperature=0, max_output_tokens=60)

    assert isinstance(json.loads(answer.output_text)["a"], bool)


def test_answers_that_cannot_be_kept_are_refused_with_what_to_do(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="send the whole input, or use /chat") as caught:
        client.responses.create(model="small", input="And then?", previous_response_id="resp_1")

    assert caught.value.param == "previous_response_id"


def test_response_of_too_long_an_input_says_so_with_its_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 1024 tokens") as caught:
        client.responses.create(model="small", input="word " * 3000, stream=True)

    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


def test_message_has_text_usage_and_why_it_ended(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        model="small", messages=HELLO, system="You are brief.", max_tokens=4, extra_body=COLD
    )

    assert (message.model, message.stop_reason, message.role) == ("small", "max_tokens", "assistant")
    assert [block.type for block in message.content] == ["text"]
    assert message.usage.output_tokens == 4
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 10


def test_streamed_message_is_the_whole_one(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "org/small:q4", "messages": HELLO, "max_tokens": 6, "extra_body": COLD}
    whole = claude.messages.create(**asked)

    with claude.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()

    assert [text] == [block.text for block in whole.content if block.type == "text"]
    assert [text] == [block.text for block in final.content if block.type == "text"]
    assert (final.stop_reason, final.model) == ("max_tokens", "small")
    assert final.usage.output_tokens == 6
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) > 10


def test_count_is_what_the_message_then_takes(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="small", messages=HELLO, system="You are brief.")

    usage = claude.messages.create(model="small", messages=HELLO, system="You are brief.", max_tokens=1).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_prompt_beyond_the_context_is_told_in_the_words_that_clients_look_for(claude: anthropic.Anthropic) -> None:
    too_long: Any = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: 3\d\d\d tokens > 1024 maximum"):
        claude.messages.create(model="small", messages=too_long, max_tokens=4)


def test_errors_are_those_that_the_package_raises(claude: anthropic.Anthropic, served: Service) -> None:
    with pytest.raises(anthropic.NotFoundError, match="small") as missing:
        claude.messages.create(model="claude-opus", messages=HELLO, max_tokens=4)
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]\.type.*web_search_20250305"):
        claude.messages.create(
            model="small",
            messages=HELLO,
            max_tokens=4,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )
    with (
        anthropic.Anthropic(base_url=served.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        stranger.messages.count_tokens(model="small", messages=HELLO)

    assert isinstance(missing.value.body, dict)
    assert missing.value.body["error"]["type"] == "not_found_error"
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["error"]["type"] == "authentication_error"


def test_key_as_a_bearer_is_taken_too(served: Service) -> None:
    """What ANTHROPIC_AUTH_TOKEN makes of it."""
    with anthropic.Anthropic(base_url=served.url, auth_token=USE_KEY, max_retries=0, timeout=60) as client:
        answer = client.messages.create(model="small", messages=HELLO, max_tokens=1)

    assert answer.usage.output_tokens == 1  # what the one token says is left to chance
