"""The official ``openai`` package, unchanged, against AirLab on the engines that really generate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.service import ADMIN_KEY, USE_KEY, Service

HELLO: list[Any] = [{"role": "user", "content": "Say hello"}]


def client_of(service: Service, *, key: str = USE_KEY, base: str = "/v1") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}{base}", api_key=key, max_retries=0, timeout=60)


@pytest.fixture
def client(served: Service) -> Iterator[openai.OpenAI]:
    with client_of(served) as client:
        yield client


def test_chat_answers_with_text_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="small", messages=HELLO, max_tokens=4, temperature=0)

    assert answer.model == "small"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4


def test_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "small", "messages": HELLO, "max_tokens": 6, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**asked)

    chunks = list(client.chat.completions.create(**asked, stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert {chunk.usage for chunk in chunks} == {None}


def test_stream_ends_with_usage_where_it_was_asked_for(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(
        model="small", messages=HELLO, max_tokens=3, temperature=0, stream=True, stream_options=options
    )

    *others, last = list(stream)

    assert last.choices == []
    assert last.usage
    assert last.usage.completion_tokens == 3
    assert all(chunk.choices for chunk in others)


def test_plain_completion_and_its_stream(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="small", prompt="One two three", max_tokens=3, temperature=0)
    stream = client.completions.create(model="small", prompt="One two three", max_tokens=3, temperature=0, stream=True)

    assert answer.choices[0].text == "".join(chunk.choices[0].text for chunk in stream)
    assert answer.usage


def test_embeddings_in_the_default_encoding_are_those_of_the_float_encoding(client: openai.OpenAI) -> None:
    """The package asks for base64 unless told otherwise, and unpacks it itself."""
    texts = ["a cat", "a kitten"]
    packed = client.embeddings.create(model="small", input=texts)
    plain = client.embeddings.create(model="small", input=texts, encoding_format="float")

    assert [item.index for item in packed.data] == [0, 1]
    assert [len(item.embedding) for item in packed.data] == [576, 576]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-3, abs=1e-5)


def test_models_are_listed_and_found_by_key_and_by_alias_with_a_slash(client: openai.OpenAI) -> None:
    listed = list(client.models.list())

    assert [model.id for model in listed] == ["small"]
    assert isinstance(listed[0].created, int)
    assert client.models.retrieve("small").id == "small"
    assert client.models.retrieve("org/small:q4").id == "small"


def test_chat_through_an_alias_with_a_slash(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="org/small:q4", messages=HELLO, max_tokens=1).choices


def test_bad_value_is_a_bad_request_error_that_names_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="small", messages=HELLO, temperature=99)

    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"


def test_prompt_beyond_the_context_is_a_bad_request_error_with_its_code(client: openai.OpenAI) -> None:
    too_long: Any = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.BadRequestError, match="maximum context length is 1024 tokens") as caught:
        client.chat.completions.create(model="small", messages=too_long)

    assert caught.value.code == "context_length_exceeded"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["n_ctx"] == 1024
    assert caught.value.body["n_prompt_tokens"] > 3000


def test_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="small") as caught:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert caught.value.code == "model_not_found"

    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_wrong_key_is_an_authentication_error(served: Service) -> None:
    with client_of(served, key="wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()

    assert caught.value.code == "invalid_api_key"


def test_use_key_on_an_admin_route_is_a_permission_denied_error(served: Service) -> None:
    with client_of(served, base="") as client, pytest.raises(openai.PermissionDeniedError, match="AIRLAB_ADMIN_KEY"):
        client.post("/models/small/unload", cast_to=object)


def test_admin_key_uses_the_models_too(served: Service) -> None:
    with client_of(served, key=ADMIN_KEY) as client:
        assert client.models.list().data
