"""Between AirLab and its engine stands somebody who slices, delays, cuts, resets and freezes what the engine says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from app.errors import UpstreamError, UpstreamStalledError
from app.fleet.upstream import Upstream
from tests.support.fake_engine import BOUND_S, CHAT, fake_engine, model_file

ASKED = msgspec.json.encode({"messages": [{"role": "user", "content": "Hello there, you"}], "stream": True})
LATENCY_S = 0.05


@dataclass
class Toxic:
    """What is done to each connection's answer."""

    slices: bool = False
    latency_s: float = 0.0
    ends_after_bytes: int | None = None
    how: str = "end"
    """end, reset or freeze."""


@asynccontextmanager
async def between(engine: Path, socket: Path, toxic: Toxic) -> AsyncIterator[None]:
    """Pass everything on from ``socket`` to the engine, and back by way of ``toxic``."""
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []
    released = asyncio.Event()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left_bytes = toxic.ends_after_bytes
        with suppress(ConnectionError):
            while data := await reader.read(65536):
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
            await released.wait()
        if toxic.how == "reset":
            writer.transport.abort()
        writer.close()

    async def there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(str(engine))
        writers.extend((writer, engine_writer))
        tasks.add(asyncio.create_task(there(reader, engine_writer)))
        tasks.add(asyncio.create_task(back(engine_reader, writer)))

    server = await asyncio.start_unix_server(accept, str(socket))
    try:
        yield
    finally:
        released.set()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def answer_through(folder: Path, toxic: Toxic) -> bytes:
    """The whole answer to one stream, asked through the toxic."""
    async with asyncio.timeout(BOUND_S), fake_engine(model_file(folder)) as engine:
        socket = folder / "toxic.sock"
        async with between(engine.path, socket, toxic):
            upstream = Upstream(socket)
            try:
                async with await upstream.send(CHAT, ASKED) as answer:
                    return await answer.read()
            finally:
                assert upstream.progress.waiting == 0
                await upstream.close(UpstreamError("over"))


@pytest.mark.parametrize(
    "toxic", [Toxic(), Toxic(slices=True), Toxic(latency_s=LATENCY_S)], ids=["plain", "slices", "latency"]
)
async def test_fault_102_answer_in_pieces_or_late_is_the_same_answer(tmp_path: Path, toxic: Toxic) -> None:
    answer = (await answer_through(tmp_path, toxic)).decode()
    words = [line for line in answer.splitlines() if "word" in line]
    assert len(words) == 8
    assert answer.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("after_bytes", [0, 20, 400], ids=["at once", "in the headers", "in the stream"])
async def test_fault_102_connection_that_ends_early_is_an_error(tmp_path: Path, how: str, after_bytes: int) -> None:
    """Half an answer must not pass for a whole one."""
    with pytest.raises(UpstreamError, match="broke off"):
        await answer_through(tmp_path, Toxic(ends_after_bytes=after_bytes, how=how))


async def test_fault_102_half_open_connection_ends_when_the_watch_gives_it_up(tmp_path: Path) -> None:
    """No byte and no end: the channel waits, says that it does, and whoever watches breaks it off with the reason."""
    toxic = Toxic(ends_after_bytes=400, how="freeze")
    async with asyncio.timeout(BOUND_S), fake_engine(model_file(tmp_path)) as engine:
        socket = tmp_path / "toxic.sock"
        async with between(engine.path, socket, toxic):
            upstream = Upstream(socket)

            async def read() -> bytes:
                async with await upstream.send(CHAT, ASKED) as answer:
                    return await answer.read()

            reading = asyncio.create_task(read())
            done, _ = await asyncio.wait({reading}, timeout=0.3)
            assert not done
            assert upstream.progress.waiting == 1
            await upstream.close(UpstreamStalledError("it had work and sent nothing"))
            with pytest.raises(UpstreamStalledError):
                await reading
