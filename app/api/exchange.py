"""One request and its answer, as the application sees them: the body in one piece, and an end when the client leaves.

Knows no headers: how large a body may be is told to it, how fast it must come is its Pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple

from app.api.wire import Message, Receive, RefusedError, Send
from app.units import format_bytes


class Pace(NamedTuple):
    """How slowly a body may come."""

    grace_s: float
    """This long whatever has come."""
    bytes_per_s: int
    """So many bytes buy a further second ..."""
    deadline_s: float
    """... up to this in all."""


class Exchange:
    """One request and its answer, as the application sees them."""

    __slots__ = (
        "_body",
        "_client_left",
        "_complete",
        "_deadline",
        "_pace",
        "_reading",
        "_receive",
        "_received_bytes",
        "_send",
        "_since_s",
        "_task",
        "_too_slow",
        "_watcher",
    )

    def __init__(self, receive: Receive, send: Send, pace: Pace) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 # a coroutine that runs is in a task
        self._task = task
        self._receive = receive
        self._send = send
        self._pace = pace
        self._body: bytes | None = b""
        self._reading = False
        self._received_bytes = 0
        self._since_s = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._too_slow = False
        self._complete = False
        self._watcher: asyncio.Task[None] | None = None
        self._client_left = False

    async def read_body(self, limit_bytes: int) -> bool:
        """Take the whole body; False when the client left before its end. Raises RefusedError: too large, too slow."""
        self._reading = True
        pieces: list[bytes] = []
        try:
            while (message := await self._receive())["type"] == "http.request":
                pieces.append(message["body"])
                self._received_bytes += len(pieces[-1])
                if self._received_bytes > limit_bytes:
                    raise RefusedError(413, f"The body is over {format_bytes(limit_bytes)}.")
                if not message["more_body"]:
                    self._body = b"".join(pieces)
                    if self._deadline is not None:  # it was looked at while it read, and will not be again
                        self._watcher = self._watching()
                    return True
        except asyncio.CancelledError as exc:
            if not self._too_slow or self._task.uncancel() > 0:
                raise
            sentence = f"The body came too slowly: after {self._received_bytes} bytes it was not complete."
            raise RefusedError(408, sentence, closes=True) from exc
        finally:
            self._reading = False
            if self._deadline is not None:
                self._deadline.cancel()
        return False

    async def receive(self) -> Message:
        """The request, whole; asked again, the news that the client left or has its answer."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        self._watcher = self._watching()
        await asyncio.wait({self._watcher})
        return {"type": "http.disconnect"}

    def send(self, message: Message) -> Awaitable[None]:
        """Pass the answer on, noting its end: what the application does after that is not cancelled."""
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
        return self._send(message)

    def look(self) -> None:
        """This request takes its time: hurry a body that is still coming, else watch for the client to leave."""
        if self._reading:
            self._since_s = self._task.get_loop().time()
            self._check_pace()
        else:
            self._watcher = self._watching()

    def _check_pace(self) -> None:
        pace, loop = self._pace, self._task.get_loop()
        due_s = self._since_s + min(pace.grace_s + self._received_bytes / pace.bytes_per_s, pace.deadline_s)
        if loop.time() < due_s:
            self._deadline = loop.call_at(due_s, self._check_pace)
        else:
            self._too_slow = True
            self._task.cancel()

    def _watching(self) -> asyncio.Task[None]:
        return self._watcher or self._task.get_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._complete:
            self._client_left = True
            self._task.cancel()

    def cancelled_by_us_alone(self) -> bool:
        """Whether the client's leaving is the only reason for a cancellation; anybody else's is not ours to swallow."""
        return self._client_left and self._task.cancelling() == 1

    def close(self) -> None:
        """End the watch, and take back the cancellation: the task may have other work."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._client_left:
            self._task.uncancel()
