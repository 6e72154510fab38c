"""llama-server's chat stream, read, however its bytes are cut and whatever is in them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chat.stream import Generated, Piece, bound_bytes
from app.errors import UpstreamError
from app.messages import ToolCall

DONE = b"data: [DONE]\n\n"


def event(delta: dict[str, Any] | None = None, finish_reason: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}] if delta is not None else []
    return f"data: {json.dumps({'choices': choices, **more}, ensure_ascii=False)}\n\n".encode()


def fragment(index: int, arguments: str, name: str | None = None, id_: str | None = None) -> bytes:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return event({"tool_calls": [{"index": index, "function": function, **({"id": id_} if id_ else {})}]})


WHOLE = b"".join(
    [
        b": a comment\n\n",
        event({"role": "assistant", "content": None}),
        event({"reasoning_content": "Hm ßß"}),
        event({"content": "Grüße"}),
        event({"content": " 👋\r\n data: x"}),
        fragment(1, '{"b', "two", "id2"),
        fragment(0, "", "one", "id1"),
        fragment(1, '": 2}'),
        event({}, "tool_calls"),
        event(usage={"prompt_tokens": 7, "completion_tokens": 9, "prompt_tokens_details": {}}),
        DONE,
    ]
)


async def bytes_of(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(*chunks: bytes) -> tuple[list[Piece], Generated]:
    generated = Generated(64, "the server")
    return [piece async for piece in generated.read(bytes_of(chunks))], generated


@given(st.lists(st.integers(0, len(WHOLE)), max_size=40))
async def test_bytes_cut_anywhere_give_the_same(places: list[int]) -> None:
    cuts = [0, *sorted(places), len(WHOLE)]
    pieces, generated = await read(*(WHOLE[a:b] for a, b in pairwise(cuts)))

    assert pieces == [Piece(reasoning="Hm ßß"), Piece("Grüße"), Piece(" 👋\r\n data: x")]
    assert generated.calls == (ToolCall("id1", "one", "{}"), ToolCall("id2", "two", '{"b": 2}'))
    assert (generated.finish_reason, generated.prompt_tokens, generated.completion_tokens) == ("tool_calls", 7, 9)


async def test_calls_that_all_come_under_one_index_are_told_apart_by_their_ids() -> None:
    """As some servers send them (ollama#7881); as one call they would be lost together."""
    chunks = [fragment(0, '{"a"', "one", "id1"), fragment(0, ": 1}"), fragment(0, "{}", "two", "id2")]
    generated = Generated(64, "the server")
    pieces = [piece async for piece in generated.pieces(bytes_of([*chunks, event({}, "tool_calls"), DONE]))]

    assert generated.calls == (ToolCall("id1", "one", '{"a": 1}'), ToolCall("id2", "two", "{}"))
    assert [call.index for piece in pieces for call in piece.calls] == [0, 0, 1]


async def test_byte_by_byte_is_the_same_as_whole() -> None:
    assert await read(*(WHOLE[i : i + 1] for i in range(len(WHOLE)))) == await read(WHOLE)


async def test_calls_without_ids_get_some_that_differ() -> None:
    _, generated = await read(fragment(0, "{}", "a"), fragment(1, "{}", "b"), event({}, "stop"), DONE)

    assert [call.id for call in generated.calls] == ["call_0", "call_1"]


async def test_stream_without_done_is_whole_once_it_said_why_it_ended() -> None:
    pieces, generated = await read(event({"content": "a"}), event({}, "length"))

    assert (pieces, generated.finish_reason) == ([Piece("a")], "length")


@pytest.mark.parametrize("chunks", [(), (b"",), (event({"content": "a"}),), (event({"content": "a"}), b"data: [DO")])
async def test_stream_that_ends_before_its_answer_is_an_error(chunks: tuple[bytes, ...]) -> None:
    """Half an answer must not be taken for a whole one."""
    with pytest.raises(UpstreamError, match="ended before"):
        await read(*chunks)


@pytest.mark.parametrize(
    "data",
    [
        b"{this is no JSON",
        b'"text"',
        b"5",
        b"[]",
        b"null",
        b'{"choices": "abc"}',
        b'{"choices": [5]}',
        b'{"choices": {"a": 1}}',
        b'{"choices": [{"delta": "x"}]}',
        b'{"choices": [{"delta": {"content": 5}}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"index": "x"}]}}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": {}}}]}}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"index": -1}]}}]}',
        b'{"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 2}}',
        b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1180591620717411303424}}',
        b'{"error": ' + b"[" * 100_000,
        b'{"choices": [], "usage": {"prompt_tokens": 1}}',
        b'{"choices": [], "usage": {"prompt_tokens": "1", "completion_tokens": 2}}',
        b'{"choices": [{"delta": {"content": "\xff\xfe"}}]}',
        b'{"choices": [{"delta": {"content": "\\ud800"}}]}',
        b"[" * 100_000,
    ],
    ids=lambda data: data[:40].decode("ascii", "replace"),
)
async def test_garbage_is_an_error_of_the_engine_and_not_ours(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        await read(event({"content": "a"}), b"data: " + data + b"\n\n", event({}, "stop"), DONE)


async def test_error_in_the_stream_is_passed_on_in_its_own_words() -> None:
    with pytest.raises(UpstreamError, match="out of memory"):
        await read(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')


@pytest.mark.parametrize(
    "data",
    [
        event({"content": "x" * 1000}),
        event({"reasoning_content": "x" * 1000}),
        event({}),
        fragment(0, "x" * 1000, "tool"),
        fragment(0, "", "x" * 1000),
        event({"tool_calls": [{"index": n, "function": {}} for n in range(10_000)]}),
    ],
    ids=["text", "thoughts", "nothing", "arguments", "name", "calls"],
)
async def test_answer_that_never_ends_is_broken_off(data: bytes) -> None:
    """A server that ignored max_tokens filled gigabytes of our memory; none may, whatever it fills them with."""
    repeated = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal repeated
        while True:
            repeated += 1
            yield data.replace(b'"index": ', b'"index": %d' % (1 + repeated % 9))

    generated = Generated(8, "the server")
    with pytest.raises(UpstreamError, match="the server goes on and on, where 8 tokens were asked for"):
        async for _ in generated.read(endless()):
            pass
    assert repeated <= bound_bytes(8) // 128 + 1


async def test_longest_answer_that_is_honest_is_not_cut() -> None:
    """Each letter an event of its own, the longest words, and thoughts that the server does not count."""
    tokens = 4096
    thoughts = [event({"reasoning_content": "hm "})] * 60_000
    letters = [event({"content": "x"})] * 8 * tokens
    generated = Generated(tokens, "the server")
    pieces = [piece async for piece in generated.read(bytes_of([*thoughts, *letters, event({}, "length"), DONE]))]
    assert len(pieces) == 60_000 + 8 * tokens

    generated = Generated(tokens, "the server")
    pieces = [piece async for piece in generated.read(bytes_of([event({"content": "-" * 512})] * tokens + [DONE]))]
    assert len(pieces) == tokens


async def test_line_that_comes_byte_by_byte_is_not_copied_for_each() -> None:
    """A line of four megabytes that dripped in took terabytes of copying."""
    whole = event({"content": "x" * 400_000})
    pieces, _ = await read(*(whole[at : at + 1] for at in range(len(whole))), event({}, "stop"), DONE)
    assert [len(piece.text) for piece in pieces] == [400_000]


async def test_event_without_end_is_not_gathered_for_ever() -> None:
    with pytest.raises(UpstreamError, match="without end"):
        await read(*[b"data: " + b"x" * 2**20] * 6)


@given(st.binary(max_size=300))
async def test_any_bytes_give_an_answer_or_an_upstream_error(noise: bytes) -> None:
    with suppress(UpstreamError):
        await read(event({"content": "a"}), noise, b"\n", event({}, "stop"), DONE)
