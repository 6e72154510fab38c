"""The way to one llama-server, against a server that a test holds in its hand."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from app.errors import DrainingError, UpstreamError
from app.fleet.channel import Channel
from app.fleet.upstream import Upstream

BOUND_S = 20.0
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Server:
    """Answers nothing by itself: a test takes what came."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.came: asyncio.Queue[Streams] = asyncio.Queue()

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_unix_server(self._take, str(self.socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        while not self.came.empty():
            self.came.get_nowait()[1].close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.put_nowait((reader, writer))


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "x.sock"


async def test_nothing_is_asked_of_an_engine_that_was_given_up_while_we_connected(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama-server ignores SIGTERM while it has a request: one that slips in costs the stop its whole grace."""
    because = DrainingError("stopping", retry_after_s=5)
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        connect = Channel.connect

        async def connect_and_be_given_up(path: Path) -> Channel:
            channel = await connect(path)
            await upstream.close(because)
            return channel

        monkeypatch.setattr(Channel, "connect", connect_and_be_given_up)
        with pytest.raises(DrainingError):
            await upstream.send("/v1/chat/completions", b"{}")
        reader, writer = await server.came.get()
        assert await reader.read() == b""
        writer.close()


async def test_answer_that_breaks_off_is_said_to_have_broken_off(socket: Path) -> None:
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        asking = asyncio.ensure_future(upstream.send("/x", b"{}"))
        reader, writer = await server.came.get()
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        async with await asking as answer:
            writer.close()
            with pytest.raises(UpstreamError, match="broke off"):
                await answer.read()
        await upstream.close(UpstreamError("done"))


async def answered(server: Server, upstream: Upstream, said: bytes, *, on: Streams | None = None) -> Streams:
    """Have a request answered with ``{}``, on this connection or on the next one that comes; the connection."""
    asking = asyncio.ensure_future(upstream.send("/x", b"{}"))
    reader, writer = on or await server.came.get()
    await reader.readuntil(b"{}")
    writer.write(said)
    async with await asking as answer:
        assert await answer.read() == b"{}"
    return reader, writer


async def test_connection_that_answered_is_used_again_and_one_that_streamed_is_not(socket: Path) -> None:
    """llama-server closes a connection after a stream, whatever its Keep-Alive says."""
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 2\r\n\r\n{}"
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        first = await answered(server, upstream, PLAIN)
        assert await answered(server, upstream, stream, on=first) is not None
        _, second = await answered(server, upstream, PLAIN)
        assert server.came.empty()
        first[1].close()
        second.close()
        await upstream.close(UpstreamError("done"))


async def test_request_on_a_kept_connection_that_was_being_closed_is_sent_once_more(socket: Path) -> None:
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        reader, kept = await answered(server, upstream, PLAIN)

        asking = asyncio.ensure_future(upstream.send("/x", b"{}"))
        await reader.readuntil(b"{}")
        kept.close()
        reader, writer = await server.came.get()
        await reader.readuntil(b"{}")
        writer.write(PLAIN)
        async with await asking as answer:
            assert await answer.read() == b"{}"
        writer.close()
        await upstream.close(UpstreamError("done"))


async def test_answer_longer_than_its_bound_is_refused(socket: Path) -> None:
    """A broken engine must not fill our memory."""
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        asking = asyncio.ensure_future(upstream.send("/x"))
        reader, writer = await server.came.get()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
        async with await asking as answer:
            feeding = asyncio.ensure_future(_feed(writer))
            with pytest.raises(UpstreamError, match=r"64\.0 MiB"):
                await answer.read()
        await feeding
        await upstream.close(UpstreamError("done"))


async def _feed(writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(b"x" * 1_000_000)
            await writer.drain()
    except (ConnectionError, OSError):
        writer.close()


@pytest.mark.parametrize(
    "begin",
    [
        b"HTTP/1.1 200 OK\r\nx: ",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: ",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;",
    ],
)
async def test_headers_without_an_end_are_given_up(socket: Path, begin: bytes) -> None:
    """An engine that a hostile model has taken over must not fill the service, nor keep its loop busy."""
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        asking = asyncio.create_task(upstream.ask("/props", of=dict))
        reader, writer = await server.came.get()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        for _ in range(32):
            writer.write(b"a" * 32 * 1024)

        with pytest.raises(UpstreamError, match="64 KiB of headers, and no end"):
            await asking
        await _closed(writer)


async def test_long_answer_in_few_pieces_is_no_head_without_an_end(socket: Path) -> None:
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        asking = asyncio.create_task(upstream.ask("/props", of=str))
        reader, writer = await server.came.get()
        await reader.readuntil(b"\r\n\r\n")
        body = b'"' + b"a" * 1_000_000 + b'"'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

        assert len(await asking) == 1_000_000
        await _closed(writer)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):  # the other side was faster
        await writer.wait_closed()


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


@pytest.mark.parametrize("ping", [b":\n\n", b": ping\r\n\r\n", b":\n\n:\n\n"])
async def test_fault_099_head_and_pings_of_a_stream_are_no_progress(socket: Path, ping: bytes) -> None:
    """llama-server sends both from a thread of its own, also when nothing will ever be generated."""
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        asking = asyncio.ensure_future(upstream.send("/v1/chat/completions", b"{}"))
        reader, writer = await server.came.get()
        await reader.readuntil(b"{}")
        writer.write(STREAM_HEAD)
        async with await asking as answer, aclosing(answer.chunks()) as chunks:  # type: ignore[type-var]
            still_s = 0.0
            for _ in range(3):
                writer.write(chunked(ping))
                assert await anext(chunks) == ping
                assert upstream.progress.still_s(time.monotonic()) >= still_s
                still_s = upstream.progress.still_s(time.monotonic())
            assert still_s > 0
            writer.write(chunked(ping + b"data: {}\n\n"))
            await anext(chunks)
            assert upstream.progress.still_s(time.monotonic()) == 0
        writer.close()
        await upstream.close(UpstreamError("done"))


@pytest.mark.parametrize(
    ("path", "status"),
    [("/tokenize", b"200 OK"), ("/apply-template", b"200 OK"), ("/v1/chat/completions", b"500 Internal Server Error")],
)
async def test_fault_099_what_is_answered_without_the_model_is_no_progress(
    socket: Path, path: str, status: bytes
) -> None:
    """Whoever counts tokens before each turn would else keep an engine alive that generates nothing."""
    async with Server(socket) as server, asyncio.timeout(BOUND_S):
        upstream = Upstream(socket)
        asking = asyncio.ensure_future(upstream.send(path, b"{}"))
        reader, writer = await server.came.get()
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: 2\r\n\r\n{}" % status)
        async with await asking as answer:
            assert await answer.read() == b"{}"
        assert upstream.progress.still_s(time.monotonic()) > 0
        writer.close()
        await upstream.close(UpstreamError("done"))
