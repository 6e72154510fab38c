"""Asks over HTTP, and takes as little time for it as it can: one connection that blocks, or many on uvloop.

Knows addresses and bytes; what is asked, and what the times mean, is for the questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools

from bench.figures import NotMeasuredError

_ANSWER_S = 60.0
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask: the path of a unix socket, or host and port; and with which key."""

    address: Path | tuple[str, int]
    key: str | None = None

    def request(self, path: str, payload: object | None = None) -> bytes:
        """A POST of ``payload``, or a GET without one, ready to be sent as often as wanted."""
        body = b"" if payload is None else json.dumps(payload).encode()
        lines = [f"{'GET' if payload is None else 'POST'} {path} HTTP/1.1", "Host: localhost"]
        if payload is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if self.key is not None:
            lines.append(f"Authorization: Bearer {self.key}")
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class _Answers:
    """What httptools' parser tells, answer after answer on one connection."""

    parser: httptools.HttpResponseParser = field(init=False)
    body: bytes = b""
    complete: bool = False
    over: bool = False
    """The server closes the connection behind the answer that was complete."""
    _parts: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)

    def on_body(self, piece: bytes) -> None:
        self._parts.append(piece)

    def on_message_complete(self) -> None:
        self.body, self.complete = b"".join(self._parts), True
        self.over = not self.parser.should_keep_alive()
        self._parts.clear()

    def take(self) -> bytes:
        """The body of the answer that is complete. Raises NotMeasuredError unless it was 200."""
        self.complete = False
        if self.parser.get_status_code() != 200:
            raise NotMeasuredError(f"answered {self.parser.get_status_code()}: {self.body[:500].decode()}")
        return self.body


class Connection:
    """One kept-alive connection that blocks: no event loop of ours in the times."""

    def __init__(self, target: Target) -> None:
        """Connect. Raises OSError."""
        self._target = target
        self._connect()

    def ask(self, request: bytes) -> bytes:
        """The answer's body. Raises NotMeasuredError when it is not 200 or never ends; OSError."""
        if self._answers.over:  # llama-server closes after 100 answers
            self.close()
            self._connect()
        self._socket.sendall(request)
        while not self._answers.complete:
            data = self._socket.recv(_PIECE_BYTES)
            if not data:
                raise NotMeasuredError("the connection was closed before the answer was complete")
            self._answers.parser.feed_data(data)
        return self._answers.take()

    def _connect(self) -> None:
        address = self._target.address
        if isinstance(address, Path):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(str(address))
        else:
            self._socket = socket.create_connection(address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(_ANSWER_S)
        self._answers = _Answers()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


@contextlib.contextmanager
def connected(target: Target) -> Iterator[Connection]:
    """A connection for the length of a block."""
    with contextlib.closing(Connection(target)) as connection:
        yield connection


def ask_json(target: Target, path: str, payload: object | None = None) -> Any:
    """One JSON question on a connection of its own. Raises NotMeasuredError, OSError."""
    with connected(target) as connection:
        return json.loads(connection.ask(target.request(path, payload)))


def seconds_each(connection: Connection, request: bytes, count: int) -> list[float]:
    """How long each of ``count`` requests took, one after the other, in seconds."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        connection.ask(request)
        times.append(time.perf_counter() - begun)
    return times


class Client(asyncio.Protocol):
    """One kept-alive connection of many."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        """Use ``Client.connect``."""
        self._answers = _Answers()
        self._waiting: asyncio.Future[bytes] | None = None

    @classmethod
    async def connect(cls, target: Target) -> Client:
        """Connect. Raises OSError."""
        loop = asyncio.get_running_loop()
        if isinstance(target.address, Path):
            _, client = await loop.create_unix_connection(cls, str(target.address))
        else:
            _, client = await loop.create_connection(cls, *target.address)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = transport  # type: ignore[assignment] # uvloop's are no asyncio.Transport by class

    def data_received(self, data: bytes) -> None:
        """Read on; a complete answer goes to who asked."""
        self._answers.parser.feed_data(data)
        if self._answers.complete and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            try:
                waiting.set_result(self._answers.take())
            except NotMeasuredError as exc:
                waiting.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who still waits."""
        if self._waiting is not None:
            self._waiting.set_exception(NotMeasuredError("the connection was closed before the answer was complete"))

    async def ask(self, request: bytes) -> bytes:
        """The answer's body. Raises NotMeasuredError."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


async def requests_per_s(target: Target, request: bytes, *, connections: int, seconds: float) -> float:
    """Answers a second when each connection asks again as soon as it was answered."""

    async def ask_on(client: Client, end_s: float) -> int:
        count = 0
        while time.perf_counter() < end_s:
            await client.ask(request)
            count += 1
        return count

    clients = [await Client.connect(target) for _ in range(connections)]
    try:
        begun_s = time.perf_counter()
        async with asyncio.timeout(seconds + _ANSWER_S):
            counts = await asyncio.gather(*(ask_on(client, begun_s + seconds) for client in clients))
        return sum(counts) / (time.perf_counter() - begun_s)
    finally:
        for client in clients:
            client.close()


async def ask_together(target: Target, requests: list[bytes]) -> tuple[list[bytes], float]:
    """All the requests at the same moment, a connection each: the bodies, and the seconds until the last was whole."""
    clients = [await Client.connect(target) for _ in requests]
    try:
        begun_s = time.perf_counter()
        async with asyncio.timeout(2 * _ANSWER_S):
            bodies = await asyncio.gather(
                *(client.ask(request) for client, request in zip(clients, requests, strict=True))
            )
        return bodies, time.perf_counter() - begun_s
    finally:
        for client in clients:
            client.close()
