"""HTTP to one ready llama-server: keeps channels, asks, says how it broke off. Knows bytes, not models or leases."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, TypeVar

import httptools
import msgspec
from msgspec import Meta, Struct

from app.errors import AirLabError, BadRequestError, ContextTooLongError, EngineAnsweredError, UpstreamError
from app.fleet.channel import Channel, is_comment
from app.fleet.progress import Progress, Stopwatch
from app.units import MIB, format_bytes

_KEEP_ALIVE_S = 3.0
"""llama-server closes idle connections after 5 s; ours are given up before."""
_ANSWER_BYTES, _REFUSAL_BYTES = 64 * MIB, MIB
_LOST = (OSError, httptools.HttpParserError)
_ASIDE = frozenset(
    {"/health", "/props", "/tokenize", "/apply-template", "/v1/models", "/v1/chat/completions/input_tokens"}
)
"""What llama-server answers beside its generation, and so also while that hangs."""
_T = TypeVar("_T")
TokenCount = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A count of tokens that somebody else made."""


class Upstream:
    """Connections to one llama-server on its unix socket."""

    server = "llama-server"
    """What it is called in errors."""

    def __init__(self, socket: Path) -> None:
        """Open nothing yet."""
        self.progress = Progress()
        """How long it was waited for in vain."""
        self.is_llama_server = True
        """Whether it counts tokens, shows its template and takes a grammar."""
        self.context_tokens = 0
        """Of a server that does not say it itself."""
        self.socket = socket
        """Where it serves."""
        self._idle: list[Channel] = []
        """The one used last is the last."""
        self._open: set[Channel] = set()
        self._closed_because: AirLabError | None = None

    async def send(self, path: str, body: bytes | None = None) -> Answer:
        """POST ``body``, or GET without one; returns when the status line is there. Use as ``async with``.

        No header of a client is ever passed on: llama-server keeps generating for nobody when it sees an
        X-Conversation-Id.

        Raises:
            UpstreamError: It could not be reached, or broke off before it answered.
        """
        if self._closed_because is not None:
            raise self._closed_because
        request, waited = self._request(path, body), Stopwatch()
        while True:
            channel = self._kept()
            try:
                answering = await self._ask_on(channel, request, waited)
            except _LOST as exc:
                # A kept connection that llama-server had closed meanwhile: nothing came back, so ask once more.
                if channel is None or self._closed_because is not None or not self._may_ask_again(body):
                    raise self._broken(exc) from exc
                self._close_idle()
            else:
                return Answer(self, answering, waited, generated=path not in _ASIDE)

    async def _connect(self) -> Channel:
        return await Channel.connect(self.socket)

    def _request(self, path: str, body: bytes | None) -> bytes:
        return _request(path, body)

    async def _ask_on(self, channel: Channel | None, request: bytes, waited: Stopwatch) -> Channel:
        self.progress.begin(waited)
        try:
            channel = channel or await self._connect()
            if self._closed_because is not None:  # while it connected: what is asked now would hold the engine's end up
                channel.abort()
                raise self._closed_because
            self._open.add(channel)
            try:
                channel.begin(request)
                while not channel.began:
                    await channel.more()
            except BaseException:
                self.leave(channel)
                raise
            return channel
        finally:
            self.progress.end(waited)

    def _kept(self) -> Channel | None:
        """A connection that is open and has nothing to do."""
        oldest_s = time.monotonic() - _KEEP_ALIVE_S
        while self._idle:
            channel = self._idle.pop()
            if channel.lost is None and channel.idle_since_s > oldest_s:
                return channel
            channel.abort()
        return None

    def leave(self, channel: Channel) -> None:
        """Keep the connection when all was read, else close it: that is what cancels a generation."""
        self._open.discard(channel)
        # llama-server closes the connection after every stream, whatever its Keep-Alive says (measured).
        if channel.complete and channel.reusable and not channel.is_stream and self._closed_because is None:
            channel.take()
            channel.idle_since_s = time.monotonic()
            self._idle.append(channel)
            while self._idle[0].idle_since_s < channel.idle_since_s - _KEEP_ALIVE_S:
                self._idle.pop(0).abort()
        else:
            channel.abort()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    async def ask(
        self, path: str, payload: object | None = None, *, of: type[_T], limit_bytes: int = _ANSWER_BYTES
    ) -> _T:
        """One JSON question, one JSON answer.

        Args:
            path: Where to ask.
            payload: What to ask; None asks with GET.
            of: What the answer has to be. Only what this names is built: free JSON takes thirty times its bytes.
            limit_bytes: The longest answer.

        Raises:
            BadRequestError: llama-server refused the question.
            EngineAnsweredError: It answered that it failed.
            UpstreamError: It broke off, or its answer is too long, or is not what it has to be.
        """
        async with await self.send(path, None if payload is None else msgspec.json.encode(payload)) as answer:
            if answer.status >= 400:
                raise await answer.refused()
            data = await answer.read(limit_bytes)
        try:
            return msgspec.json.decode(data, type=of)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise UpstreamError(f"{self.server} answered {path} with something else than is due there: {exc}") from exc

    def refusal(self, status: int, body: bytes, *, retry_after: str = "") -> AirLabError:
        """An error that it answered with, as one of ours; ``retry_after`` is the header of that name."""
        return refusal(status, body, server=self.server)

    def _may_ask_again(self, body: bytes | None) -> bool:
        """Whether what was sent, and not answered, may be sent once more."""
        return True

    async def healthy(self, *, timeout_s: float) -> bool:
        """True when /health answers 200: the model is loaded. It says nothing of whether generation moves."""
        try:
            async with asyncio.timeout(timeout_s), await self.send("/health") as answer:
                await answer.read()
                return answer.status == 200
        except (AirLabError, TimeoutError):
            return False

    async def close(self, because: AirLabError) -> None:
        """Break every open answer off; whoever reads one gets ``because``."""
        self._closed_because = self._closed_because or because
        self._close_idle()
        for channel in tuple(self._open):
            channel.abort()

    def _broken(self, exc: Exception) -> AirLabError:
        return self._closed_because or UpstreamError(f"{self.server} broke off: {exc or type(exc).__name__}")


class Answer:
    """llama-server's answer: its status now, its body as it comes. Leaving it early cancels the generation."""

    __slots__ = ("_channel", "_moves", "_upstream", "_waited", "is_stream", "media_type", "status")

    def __init__(self, upstream: Upstream, channel: Channel, waited: Stopwatch, *, generated: bool) -> None:
        """Use ``Upstream.send``."""
        self.status, self.media_type, self.is_stream = channel.status, channel.media_type, channel.is_stream
        self._upstream, self._channel, self._waited = upstream, channel, waited
        # A refusal is written without the model, and so is the head of a stream.
        self._moves = generated and channel.status < 400

    async def __aenter__(self) -> Answer:
        """Answers are closed by leaving the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the connection back when all was read, else close it: that is what cancels a generation."""
        self._upstream.leave(self._channel)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, unparsed. Raises UpstreamError when it breaks off."""
        channel = self._channel
        while True:
            data = self._taken()
            if data:
                yield data
            elif channel.complete:
                return
            else:
                await self._more()

    async def read(self, limit_bytes: int = _ANSWER_BYTES) -> bytes:
        """The whole body. Raises UpstreamError when it breaks off or is longer than the limit."""
        limit_bytes = min(limit_bytes, _ANSWER_BYTES)
        body = await self._up_to(limit_bytes)
        if len(body) > limit_bytes:
            raise UpstreamError(f"{self._upstream.server}'s answer is longer than {format_bytes(limit_bytes)}")
        return body

    async def refused(self) -> AirLabError:
        """The error that this answer is, as one of ours. Raises UpstreamError when it breaks off."""
        # Some repeat the whole request in it: what it begins with says enough.
        body = await self._up_to(_REFUSAL_BYTES)
        return self._upstream.refusal(self.status, body, retry_after=self._channel.retry_after)

    def require_json(self) -> None:
        """See that it is JSON, or a stream of it, before it goes out under our name. Raises UpstreamError.

        What is a page would be one of ours to a browser.
        """
        if not self.is_stream and self.media_type != "application/json":
            what = f"{self.media_type[:100]!r}, which is neither JSON nor a stream of events"
            raise UpstreamError(f"{self._upstream.server} answered with {what}")

    async def _up_to(self, limit_bytes: int) -> bytes:
        """The body, or the first part of it that is longer than the limit."""
        parts, size, channel = [], 0, self._channel
        while True:
            parts.append(self._taken())
            size += len(parts[-1])
            if channel.complete or size > limit_bytes:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            await self._more()

    def _taken(self) -> bytes:
        data = self._channel.take()
        if data and self._moves and not (self.is_stream and is_comment(data)):
            self._upstream.progress.came(self._waited)
        return data

    async def _more(self) -> None:
        upstream = self._upstream
        upstream.progress.begin(self._waited)
        try:
            await self._channel.more()
        except _LOST as exc:
            raise upstream._broken(exc) from exc  # noqa: SLF001 # the two are one thing in two lifetimes
        finally:
            upstream.progress.end(self._waited)


def _request(path: str, body: bytes | None) -> bytes:
    if body is None:
        return b"GET %b HTTP/1.1\r\nhost: engine\r\n\r\n" % path.encode()
    head = b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (path.encode(), len(body)) + body


_CLIENTS_FAULT = re.compile(r"input is not supported|cannot use both|parse grammar|invalid grammar", re.IGNORECASE)
"""Words of 500s that the request itself brings about."""
_TOLD_CHARS = 600


class _Told(Struct):
    """An error in OpenAI's shape, and what llama-server adds to it."""

    message: str
    type: str | None = None
    n_ctx: TokenCount | None = None
    n_prompt_tokens: TokenCount | None = None


class _Refusal(Struct):
    error: _Told


def _told(body: bytes) -> _Told:
    """What an error's body says; of one in another shape how it begins."""
    try:
        told = msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Told(body[:300].decode(errors="replace"))
    if len(told.message) > _TOLD_CHARS:
        told.message = f"{told.message[:_TOLD_CHARS]} ..."
    return told


def words_of(body: bytes) -> str:
    """What the body of an error says, at most 600 characters of it."""
    return _told(body).message


def refusal(status: int, body: bytes, *, server: str = Upstream.server) -> AirLabError:
    """llama-server's own error as one of ours: its 4xx is the client's fault, and so are some of its 500s.

    Its ``code`` is a number where OpenAI's is a string, and some of its texts are pages long.
    """
    error = _told(body)
    message = error.message
    if error.type == "exceed_context_size_error":
        text = f"this model's maximum context length is {error.n_ctx} tokens; {message}"
        return ContextTooLongError(text, prompt_tokens=error.n_prompt_tokens, context_tokens=error.n_ctx)
    if "too large to process" in message:
        # A text to embed, or a query with a document, longer than a batch; the advice is a flag that no client can set.
        text = message.partition(" is too large")[0]
        limits = "with `kind: [embedding]` or `[rerank]` that is its context_length, where it chats too 1024 tokens"
        return BadRequestError(f"{text} is longer than what this model reads at once; {limits}", param="input")
    if 400 <= status < 500 or _CLIENTS_FAULT.search(message):
        return BadRequestError(f"{server} refused the request: {message}")
    return EngineAnsweredError(f"{server} answered {status}: {message}")
