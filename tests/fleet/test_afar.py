"""What a server elsewhere may answer: whatever it is, it costs little, is said in words, and harms one request."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.errors import (
    AirLabError,
    BadRequestError,
    DrainingError,
    EngineAnsweredError,
    KeyRefusedError,
    QueueFullError,
    RingError,
    UnavailableError,
    UpstreamError,
    UpstreamStalledError,
)
from app.fleet.afar import Address, RemoteUpstream
from app.fleet.states import Limits

BOUND_S = 20.0
MODELS = {"data": [{"id": "m", "aliases": ["other-name"]}]}
HASTY = Limits(silent_s=0.2, remote_silent_s=0.2)


def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset in the place of an end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def whole(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, "content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Elsewhere:
    """Answers every request with the same bytes; each connection stays open unless a test ends it."""

    answer: bytes = b""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once something was asked."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    then: Callable[[asyncio.StreamWriter], Any] = lambda _: None
    """What is done after an answer."""
    repeats: bytes = b""
    """Sent for ever after the answer."""
    sent_bytes: int = 0
    url: str = ""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.asked.append(head.partition(" HTTP")[0])
                self.heard.set()
                lengths = [int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")]
                await reader.readexactly(sum(lengths))
                writer.write(self.answer)
                while self.repeats:
                    writer.write(self.repeats)
                    self.sent_bytes += len(self.repeats)
                    await writer.drain()
                self.then(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    def upstream(self, key: str | None = "k", limits: Limits | None = None) -> RemoteUpstream:
        return RemoteUpstream(Address.of(self.url), key, context_tokens=8192, limits=limits)


@asynccontextmanager
async def elsewhere(**how: Any) -> AsyncIterator[Elsewhere]:
    made = Elsewhere(**how)
    server = await asyncio.start_server(made.take, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        async with asyncio.timeout(BOUND_S):
            yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.transport.abort()


@pytest.mark.parametrize("name", ["m", "other-name"])
async def test_model_is_found_under_its_name_and_its_aliases(name: str) -> None:
    async with elsewhere(answer=whole(json.dumps(MODELS).encode())) as server:
        await server.upstream().look(name)


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": 5}',
        b'{"data": {"id": "m"}}',
        b'["m"]',
        b"null",
        b'[["m"]]',
        b'{"data": [["m"]]}',
        b'{"data": [{"id": "m", "aliases": 5}]}',
        b'{"data": [{"id": 5}]}',
        b"[" * 100_000,
        b'{"data": ' + b"[" * 100_000,
        b'{"data": null}',
        b'{"data": []}',
        b"{}",
        b"\xff\xfe",
        b"",
    ],
    ids=lambda body: body[:30].decode(errors="replace"),
)
async def test_list_of_models_that_is_none_is_no_sign_that_the_model_is_there(body: bytes) -> None:
    async with elsewhere(answer=whole(body)) as server:
        with pytest.raises(UpstreamError):
            await server.upstream().look("m")


async def test_list_of_models_without_end_is_not_read_on() -> None:
    """60 MB of it took 2.9 GB of memory, and stopped the service for seconds, every 15 seconds."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n"
    async with elsewhere(answer=head, repeats=b'[{"id": "m"}],' * 5000) as server:
        with pytest.raises(UpstreamError, match=r"longer than 1\.0 MiB"):
            await server.upstream().look("m")
        for writer in server.writers:
            writer.transport.abort()
        assert server.sent_bytes < 32 * 1024 * 1024  # what was read, and what lay in the kernel's buffers


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example"])
async def test_name_that_cannot_be_looked_up_is_said_to_be_none(host: str) -> None:
    upstream = RemoteUpstream(Address.of(f"http://{host}/v1"), None, context_tokens=8192)
    with pytest.raises(UpstreamError, match="is no name that could be looked up"):
        await upstream.look("m")


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("begins", "drips"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nx-a: ", b"a"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b""),
        (STREAM, b": still here\n\n"),
        (STREAM + b"data: {}\n\n", b""),
        (STREAM + b"data: {}\n\n", b": still here\n\n"),
    ],
    ids=["no head", "a head for ever", "a head alone", "comments alone", "one event", "one event and comments"],
)
async def test_server_that_hangs_is_given_up(begins: bytes, drips: bytes) -> None:
    """It held a slot, and its session's turn, until the client left; some never do."""
    dripping: list[asyncio.Task[None]] = []

    async def drip(writer: asyncio.StreamWriter) -> None:
        while drips and not writer.is_closing():
            writer.write(drips)
            await asyncio.sleep(0.01)  # a server that drips, and no wait of the test's

    async with elsewhere(
        answer=begins, then=lambda writer: dripping.append(asyncio.create_task(drip(writer)))
    ) as server:
        upstream = server.upstream(limits=HASTY)
        with pytest.raises(UpstreamStalledError, match=r"the server sent nothing for 0\.2 s"):
            async with await upstream.send("/v1/chat/completions", b"{}") as answer:
                await answer.read()
        assert upstream.broke
        for task in dripping:
            await task
        await server.heard.wait()
        assert server.asked == ["POST /v1/chat/completions"]


async def test_server_that_hangs_is_not_taken_for_one_that_is_done_with() -> None:
    """Who breaks it off meanwhile is heard, and not the silence."""
    async with elsewhere() as server:
        upstream = server.upstream()
        asking = asyncio.create_task(upstream.send("/v1/chat/completions", b"{}"))
        await server.heard.wait()
        await upstream.close(DrainingError("over", retry_after_s=5))
        with pytest.raises(DrainingError):
            await asking


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words", "retry_after_s"),
    [
        ("401 No", (), KeyRefusedError, "does not take the key that AirLab sends (401): no", None),
        ("403 No", (), KeyRefusedError, "does not permit this to the key that AirLab sends (403): no", None),
        ("404 No", (), UnavailableError, "has no such model or route (404): no", 5),
        ("429 No", ("retry-after: 7",), QueueFullError, "has too much to do (429): no", 7),
        ("429 No", (), QueueFullError, "has too much to do (429): no", 5),
        ("503 No", ("Retry-After: 12",), UnavailableError, "cannot serve this now (503): no", 12),
        ("503 No", (f"retry-after: {'9' * 4000}",), UnavailableError, "cannot serve this now (503): no", 3600),
        ("503 No", ("retry-after: Fri, 31 Dec 1999 23:59:59 GMT",), UnavailableError, "(503): no", 5),
        ("503 No", ("retry-after: -5",), UnavailableError, "(503): no", 5),
        ("508 No", (), RingError, "found a ring (508): no", None),
        ("400 No", (), BadRequestError, "refused the request: no", None),
        ("422 No", (), BadRequestError, "refused the request: no", None),
        ("500 No", (), EngineAnsweredError, "answered 500: no", None),
    ],
)
async def test_refusal_says_whose_business_it_is_and_when_to_come_back(
    status: str, headers: tuple[str, ...], kind: type[AirLabError], words: str, retry_after_s: float | None
) -> None:
    """Each was the client's fault, or a 502 without a time."""
    async with elsewhere(answer=whole(b'{"error": {"message": "no"}}', status, *headers)) as server:
        upstream = server.upstream()
        async with await upstream.send("/v1/chat/completions", b"{}") as answer:
            error = await answer.refused()
        assert type(error) is kind
        assert words in error.message
        assert getattr(error, "retry_after_s", None) == retry_after_s
        assert upstream.broke == (status[:3] in {"401", "403", "404"}), "a look follows where it can tell more"


@pytest.mark.parametrize(
    "body",
    [b'{"error":' + b"[" * 100_000, b'{"error": 5}', b'{"error": {"message": 5, "n_ctx": 1e400}}', b"\xff", b"[]"],
    ids=lambda body: body[:30].decode(errors="replace"),
)
async def test_refusal_in_no_known_shape_is_a_refusal_all_the_same(body: bytes) -> None:
    async with elsewhere(answer=whole(body, "400 No")) as server:
        async with await server.upstream().send("/v1/chat/completions", b"{}") as answer:
            error = await answer.refused()
        assert isinstance(error, BadRequestError)
        assert len(error.message) < 700


async def test_refusal_without_end_is_read_as_far_as_it_says_something() -> None:
    head = b'HTTP/1.1 400 No\r\ncontent-length: 99999999999\r\n\r\n{"error": {"message": "too lo'
    async with elsewhere(answer=head, repeats=b"o" * 100_000) as server:
        async with await server.upstream().send("/v1/chat/completions", b"{}") as answer:
            error = await answer.refused()
        assert isinstance(error, BadRequestError)
        assert "too looo" in error.message


async def test_answer_may_end_with_its_connection() -> None:
    """HTTP/1.1 without a length and without chunks; half of what speaks HTTP by hand answers so."""
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n"
    async with elsewhere(answer=head + b'{"a": 1}', then=hang_up) as server:
        upstream = server.upstream()
        assert await upstream.ask("/v1/x", {}, of=dict) == {"a": 1}
        assert not upstream.broke


@pytest.mark.parametrize(
    ("framing", "end"),
    [
        (b"content-length: 99", hang_up),
        (b"transfer-encoding: chunked", hang_up),
        (b"connection: close", reset),
    ],
    ids=["length", "chunks", "reset"],
)
async def test_answer_that_ends_early_is_an_error_all_the_same(
    framing: bytes, end: Callable[[asyncio.StreamWriter], None]
) -> None:
    """Half an answer must not pass for a whole one."""
    half = b"9\r\nhalf" if b"chunked" in framing else b"half"

    async with elsewhere(answer=b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + half, then=end) as server:
        with pytest.raises(UpstreamError, match="broke off"):
            async with await server.upstream().send("/v1/x", b"{}") as answer:
                await answer.read()


async def test_answer_that_we_break_off_is_not_taken_for_one_that_ended() -> None:
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf"
    async with elsewhere(answer=head) as server:
        upstream = server.upstream()
        async with await upstream.send("/v1/x", b"{}") as answer:
            reading = asyncio.create_task(answer.read())
            await asyncio.sleep(0)
            await upstream.close(DrainingError("over", retry_after_s=5))
            with pytest.raises(DrainingError):
                await reading


async def test_generation_that_was_lost_is_not_asked_for_twice() -> None:
    """It may have begun there all the same, and be billed; a look may be repeated."""
    async with elsewhere(answer=whole(json.dumps(MODELS).encode())) as server:
        upstream = server.upstream()
        await upstream.look("m")
        before = len(server.asked)

        server.answer, server.then = b"", hang_up
        with pytest.raises(UpstreamError, match="broke off"):
            await upstream.send("/v1/chat/completions", b"{}")
        assert server.asked[before:] == ["POST /v1/chat/completions"]
