"""HTTP/1.1 as llama-server speaks it: requests in, answers and event streams out. Knows nothing of models.

Written on asyncio alone, so that the fake starts in a tenth of a second and needs nothing installed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

JSON_TYPE = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Request:
    """One request, its body read."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.StreamReaderProtocol):
    """One client, whose departure cancels the task that is answering it."""

    def __init__(self, serve: Callable[[Connection], Awaitable[None]]) -> None:
        """Call ``serve`` once the client is there; ``reader`` and ``writer`` are set by then."""
        self.reader = asyncio.StreamReader(limit=2**20)
        self.writer: asyncio.StreamWriter
        self.busy: asyncio.Task[Any] | None = None
        self._serve = serve
        super().__init__(self.reader, self._connected)

    async def _connected(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        await self._serve(self)

    def eof_received(self) -> bool | None:
        """Take a half-closed connection for a closed one, as llama-server does."""
        self._left()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notice a client that is gone altogether."""
        self._left()
        super().connection_lost(exc)

    def _left(self) -> None:
        if self.busy is not None:
            self.busy.cancel()


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request. Raises IncompleteReadError (an EOFError) when the client leaves instead."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    return Request(method, url.path, dict(parse_qsl(url.query)), headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


def to_json(value: Any) -> bytes:
    """Compact JSON, letters beyond ASCII as they are; U+DCxx becomes the lone byte xx, which is no UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def answer(status: int, body: bytes, *, content_type: str = JSON_TYPE, close: bool = False) -> bytes:
    """A whole answer. Like the real one, an error ends the connection."""
    lines = [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return _head(status, lines, close=close or status >= 400) + body


def stream_head(*, close: bool = False) -> bytes:
    """What comes before the first event of a stream."""
    lines = ["X-Accel-Buffering: no", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
    return _head(200, lines, close=close)


def _head(status: int, lines: list[str], *, close: bool) -> bytes:
    first = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Server: llama.cpp", "Access-Control-Allow-Origin: "]
    last = ["Connection: close" if close else "Keep-Alive: timeout=5, max=100", "", ""]
    return "\r\n".join(first + lines + last).encode()


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)
