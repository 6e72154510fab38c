"""One kept-alive HTTP/1.1 connection to a llama-server's unix socket, or elsewhere. Knows framing, not what is asked.

Ours and not a library's: a request costs 25 microseconds of processor time with it and 150 with aiohttp, which was
more than everything else that AirLab does for a request.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from pathlib import Path

import httptools

_CONNECT_S = 5.0
_BUFFER_BYTES = 256 * 1024
"""More than this that nobody has taken yet, and llama-server is made to wait."""
_HEAD_BYTES = 64 * 1024
"""More than this without a piece of a body is no head: the parser would keep it, and copy it anew for each piece."""


class SilentError(TimeoutError):
    """Nothing came for so long that it was given up."""


class Channel(asyncio.Protocol):
    """One connection, and the one answer that comes on it now."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        """Use ``connect``."""
        self.status = 0
        self.content_type = "application/octet-stream"
        self.retry_after = ""
        """When it says that it is worth asking again."""
        self.first_byte_s = self.next_byte_s = math.inf
        """How long it may be silent before the first byte of a body, and after it. A comment in a stream is silence."""
        self.began = False
        """The status line and the headers are there."""
        self.complete = False
        """The whole answer is there, taken or not."""
        self.reusable = False
        """The next request may be sent here."""
        self.lost: Exception | None = None
        """Why the connection is no more."""
        self.idle_since_s = 0.0
        self._parts: list[bytes] = []
        self._waiting_bytes = self._head_bytes = 0
        self._silent_s = 0.0
        """How long it was waited for since it last said something: not while what came was not taken."""
        self._paused = self._is_framed = self._spoke = self._has_news = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_stream(self) -> bool:
        """True when the answer is server-sent events."""
        return self.media_type == "text/event-stream"

    @property
    def media_type(self) -> str:
        """What the answer says that it is, without parameters."""
        return self.content_type.partition(";")[0].strip().lower()

    @classmethod
    async def connect(cls, socket: Path) -> Channel:
        """Connect. Raises OSError."""
        async with asyncio.timeout(_CONNECT_S):
            _, channel = await asyncio.get_running_loop().create_unix_connection(cls, str(socket))
        return channel

    @classmethod
    async def connect_tcp(cls, host: str, port: int, tls: ssl.SSLContext | None) -> Channel:
        """Connect to another machine. Raises OSError."""
        async with asyncio.timeout(_CONNECT_S):
            _, channel = await asyncio.get_running_loop().create_connection(cls, host, port, ssl=tls)
        return channel

    def begin(self, request: bytes) -> None:
        """Send a request, whole, and forget the answer before it."""
        self._parser = httptools.HttpResponseParser(self)
        self.began = self.complete = self.reusable = self._is_framed = self._spoke = self._has_news = False
        self._head_bytes, self._silent_s = 0, 0.0
        self.content_type, self.retry_after = "application/octet-stream", ""
        self._transport.write(request)

    async def more(self) -> None:
        """Wait for news: the head, a piece of the body, the end. Raises ``lost``, and SilentError where none comes."""
        if self.lost is not None:
            raise self.lost
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        if self.first_byte_s < math.inf:
            await self._in_time(self._waiter)
        else:
            await self._waiter

    async def _in_time(self, news: asyncio.Future[None]) -> None:
        if self._has_news:
            self._spoke, self._has_news, self._silent_s = True, False, 0.0
        limit_s, begun_s = self.next_byte_s if self._spoke else self.first_byte_s, time.monotonic()
        try:
            async with asyncio.timeout(limit_s - self._silent_s):
                await news
        except TimeoutError as exc:
            if self.lost is not None:  # that was the connection's own
                raise
            self.lost = SilentError(f"sent nothing for {limit_s:g} s")
            self._transport.abort()
            raise self.lost from exc
        self._silent_s += time.monotonic() - begun_s

    def take(self) -> bytes:
        """What has come of the body since it was last taken."""
        parts, self._waiting_bytes = self._parts, 0
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    def abort(self) -> None:
        """Close it now; whoever waits hears of it."""
        self._transport.abort()

    # asyncio's news

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = transport  # type: ignore[assignment] # uvloop's are no asyncio.Transport by class

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self.complete or not hasattr(self, "_parser"):
            self._transport.abort()  # words nobody asked for: what follows could be taken for another answer
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.lost = exc
            self._transport.abort()
        if self._head_bytes > _HEAD_BYTES and not self.complete:
            self.lost = httptools.HttpParserError(f"{_HEAD_BYTES // 1024} KiB of headers, and no end")
            self._transport.abort()
        if self._waiting_bytes > _BUFFER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """It sends no more; an answer without a length ends so."""
        if self.began and not self._is_framed and self.lost is None:
            self.complete = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self.lost = self.lost or exc or ConnectionResetError("the connection was closed")
        self.reusable = False
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if self.lost is not None and not self.complete:
            waiter.set_exception(self.lost)
        else:
            waiter.set_result(None)

    # The parser's news

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep those that somebody asks for."""
        match name.lower():
            case b"content-type":
                self.content_type = value.decode("latin-1")
            case b"retry-after":
                self.retry_after = value.decode("latin-1")
            case b"content-length" | b"transfer-encoding":
                self._is_framed = True

    def on_headers_complete(self) -> None:
        """The head is there."""
        self.status = self._parser.get_status_code()
        self.began = self.status >= 200

    def on_body(self, piece: bytes) -> None:
        """Keep a piece of the body."""
        if self.first_byte_s < math.inf and not self._has_news:
            self._has_news = not (self.is_stream and is_comment(piece))
        self._parts.append(piece)
        self._waiting_bytes += len(piece)
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        """The end."""
        self.complete = self.began
        self.reusable = self._parser.should_keep_alive()


def is_comment(piece: bytes) -> bool:
    """Whether a piece of a stream says nothing: llama-server keeps one alive so, also while nothing moves in it.

    A thread of its own sends these comments, every 30 s (``--sse-ping-interval``; measured).
    """
    return piece[:1] in b":\r\n" and all(not line or line.startswith(b":") for line in piece.splitlines())
