"""A proxy that slices, delays, cuts, resets and freezes what a server says; stands before an engine or a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_READ_BYTES = 65536


@dataclass(frozen=True)
class Toxic:
    """What is done to each connection's answer."""

    slices: bool = False
    latency_s: float = 0.0
    ends_after_bytes: int | None = None
    how: str = "end"
    """end, reset or freeze."""
    freeze_s: float | None = None
    """After this a connection that is frozen ends; None for when the proxy does."""


@asynccontextmanager
async def toxic_proxy(
    connect: Callable[[], Awaitable[Streams]],
    listen: Callable[[Handler], Awaitable[asyncio.Server]],
    toxic: Callable[[], Toxic],
) -> AsyncIterator[None]:
    """Pass everything on to where ``connect`` leads, and back by way of what ``toxic`` says for each connection.

    Args:
        connect: Reaches the server; an OSError of it ends the connection.
        listen: Starts the proxy's own server with this handler.
        toxic: Asked once for each connection.
    """
    open_: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_pass_on(connect, toxic(), reader, writer))
        open_.add(task)
        task.add_done_callback(open_.discard)

    server = await listen(accept)
    try:
        yield
    finally:
        server.close()
        left = tuple(open_)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _pass_on(
    connect: Callable[[], Awaitable[Streams]],
    toxic: Toxic,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """One connection, until who asked has left or who answers has ended."""
    writers, tasks = [writer], set[asyncio.Task[None]]()
    try:
        with suppress(OSError):
            server_reader, server_writer = await connect()
            writers.append(server_writer)
            tasks = {
                asyncio.create_task(_answer(server_reader, writer, toxic)),
                asyncio.create_task(_ask(reader, server_writer)),
            }
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for each in writers:  # before anything is waited for: that may be cancelled
            each.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(each.wait_closed() for each in writers), return_exceptions=True)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_READ_BYTES):
        writer.write(data)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, toxic: Toxic) -> None:
    left_bytes = toxic.ends_after_bytes
    while data := await reader.read(_READ_BYTES):
        await asyncio.sleep(toxic.latency_s)  # the fault itself, and no wait of the test's
        ends = left_bytes is not None and len(data) >= left_bytes
        data = data[:left_bytes] if ends else data
        for piece in [data[i : i + 1] for i in range(len(data))] if toxic.slices else [data]:
            writer.write(piece)
            await writer.drain()
        if ends:
            break
        left_bytes = None if left_bytes is None else left_bytes - len(data)
    if toxic.how == "freeze":
        with suppress(TimeoutError):
            async with asyncio.timeout(toxic.freeze_s):
                await asyncio.Event().wait()
    if toxic.how == "reset":
        writer.transport.abort()
