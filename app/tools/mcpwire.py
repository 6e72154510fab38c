"""The ways to an MCP server: a program that AirLab starts, or a URL. Bounded, whatever the server sends.

Imported only where the manifest declares a server: the SDK takes half a second and 56 MiB.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from app.process import Child

MESSAGE_BYTES = 1024**2
"""The longest message of a server."""

_GRACE_S = 2.0
_ASK_S, _SILENCE_S = 30.0, 300.0


class TooMuchError(Exception):
    """A server sent more than is read, or in a form that could become more."""


@asynccontextmanager
async def started(
    argv: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    children: set[Child],
    ended: Callable[[], None],
) -> AsyncIterator[TransportStreams]:
    """Start a server and talk to it over its standard streams.

    Args:
        argv: The program and its arguments.
        environment: All of its environment.
        folder: Where it is started.
        children: Holds the process until it is verified gone; whoever owns the set stops what is left in it.
        ended: Called when the server has closed its end.

    Raises:
        EngineError: It cannot be started.
    """
    ours, theirs = socket.socketpair()
    try:
        child = await Child.spawn(argv, environment=environment, cwd=folder, talk_fd=theirs.fileno())
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    children.add(child)
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=MESSAGE_BYTES)
    heard, inbound = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outbound, said = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with heard, inbound, outbound, said, anyio.create_task_group() as tasks:
            tasks.start_soon(_hear, reader, heard, ended)
            tasks.start_soon(_say, writer, said)
            yield inbound, outbound
            tasks.cancel_scope.cancel()
    finally:
        writer.close()
        if await child.stop(grace_s=_GRACE_S):
            children.discard(child)


def asked(url: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[TransportStreams]:
    """Talk to a server that listens at a URL (streamable HTTP)."""
    return _asked(url, headers)


@asynccontextmanager
async def _asked(url: str, headers: Mapping[str, str]) -> AsyncIterator[TransportStreams]:
    # Nothing of AirLab's environment: no proxy, no .netrc.
    client = httpx2.AsyncClient(
        headers={**headers, "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(_ASK_S, read=_SILENCE_S),
        transport=_Bounded(trust_env=False),
        trust_env=False,
    )
    async with client, streamable_http_client(url, http_client=client) as streams:
        yield streams


async def _hear(
    reader: asyncio.StreamReader, heard: MemoryObjectSendStream[SessionMessage | Exception], ended: Callable[[], None]
) -> None:
    """Until the server closes its end or sends a line without an end: then the session ends, too."""
    async with heard:
        # ValueError: a line that is too long.
        with suppress(OSError, ValueError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while line := await reader.readline():
                # Many servers print there what belongs into their log.
                with suppress(ValueError):
                    await heard.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))
        ended()


async def _say(writer: asyncio.StreamWriter, said: MemoryObjectReceiveStream[SessionMessage]) -> None:
    async with said:
        async for message in said:
            with suppress(OSError):  # that it is gone shows when it is heard
                writer.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await writer.drain()


class _Bounded(httpx2.AsyncHTTPTransport):
    """Reads no more of an answer than a message may have; event streams are bounded by the SDK, event by event."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await super().handle_async_request(request)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            await answer.aclose()
            raise TooMuchError("the server compresses its answers though it was told not to")
        if kind != "text/event-stream":
            answer.stream = _Counted(answer.stream)
        return answer


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for piece in self._stream:
            count += len(piece)
            if count > MESSAGE_BYTES:
                raise TooMuchError(f"the server's answer is longer than {MESSAGE_BYTES // 1024} KiB")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
