"""One answer on its way out below /v1, and how far it has got."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from app.api.errors import Answer
from app.api.wire import Send, anthropic_error_body, speaks_anthropic
from app.fleet.lease import Waiting

JSON, EVENTS = b"application/json", b"text/event-stream"
_STREAM_HEADERS = [(b"content-type", EVENTS), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Words(NamedTuple):
    """How an API says that something failed."""

    body: Callable[[Answer], bytes]
    """As the whole answer."""
    event: Callable[[Answer], bytes]
    """As the last event of a stream."""


def _openai_body(answer: Answer) -> bytes:
    return msgspec.json.encode({"error": answer.error})


def _anthropic_body(answer: Answer) -> bytes:
    """Its shape has no place for the field at fault, nor for counts: they stand in the message."""
    message, param, error = answer.error["message"], answer.error["param"], answer.error
    if error.get("n_prompt_tokens") and error.get("n_ctx"):
        # Word for word what Claude Code compacts a conversation at.
        message = f"prompt is too long: {error['n_prompt_tokens']} tokens > {error['n_ctx']} maximum"
    elif param:
        message = f"{param}: {message}"
    return anthropic_error_body(answer.status, message)


_OPENAI = Words(_openai_body, lambda answer: b"data: " + _openai_body(answer) + b"\n\n")
_ANTHROPIC = Words(_anthropic_body, lambda answer: b"event: error\ndata: " + _anthropic_body(answer) + b"\n\n")


def words_for(path: str) -> Words:
    """How those who ask for this path read errors."""
    return _ANTHROPIC if speaks_anthropic(path) else _OPENAI


class Reply:
    """One answer on its way out, and how far it has got."""

    __slots__ = ("_queued", "_send", "_waited_s", "_waits_since_s", "started", "words")

    def __init__(self, send: Send, path: str) -> None:
        """The path says in whose shape errors go out."""
        self._send = send
        self._queued: Waiting | None = None
        self._waits_since_s: float | None = None
        self._waited_s = 0.0
        self.started = False
        self.words = words_for(path)

    def wait(self, waiting: Waiting) -> None:
        """Somebody has to wait; how it stood at first goes into a header."""
        if self._queued is None:
            self._queued = waiting
        if self._waits_since_s is None:
            self._waits_since_s = time.monotonic()

    def waited(self) -> None:
        """The wait is over; there may be another one, which adds to it."""
        if self._waits_since_s is not None:
            self._waited_s += time.monotonic() - self._waits_since_s
            self._waits_since_s = None

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        self.started = True
        self.waited()
        if self._queued is not None:
            headers = [*headers, (b"x-airlab-queue", self._wait_in_words(self._queued))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def begin_stream(self) -> None:
        """Send the head of a stream of events."""
        await self.begin(200, _STREAM_HEADERS)

    def _wait_in_words(self, queued: Waiting) -> bytes:
        guess = "" if queued.eta_s is None else f", eta={queued.eta_s:.1f}"
        return f"ahead={queued.ahead}{guess}, waited={self._waited_s:.1f}".encode()

    async def more(self, chunk: bytes) -> None:
        """Send a piece of the body."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        """Send the last piece."""
        await self._send({"type": "http.response.body", "body": chunk})

    async def whole(self, status: int, content_type: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Send an answer in one piece."""
        length = str(len(body)).encode()
        await self.begin(status, [(b"content-type", content_type), (b"content-length", length), *headers])
        await self.end(body)

    async def json(self, status: int, content: Any) -> None:
        """Send an answer as JSON."""
        await self.whole(status, JSON, msgspec.json.encode(content))

    async def fail(self, answer: Answer) -> None:
        """An error as the answer; after the first byte as the last event of the stream, without [DONE]."""
        if self.started:
            await self.end(self.words.event(answer))
        else:
            headers = ((name.encode(), value.encode()) for name, value in answer.headers.items())
            await self.whole(answer.status, JSON, self.words.body(answer), *headers)
