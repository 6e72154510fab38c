"""Between AirLab and its engine stands somebody who slices, delays, cuts, resets and freezes what the engine says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from app.errors import UpstreamError, UpstreamStalledError
from app.fleet.upstream import Upstream
from tests.support.fake_engine import BOUND_S, CHAT, fake_engine, model_file
from tests.support.toxic import Toxic, toxic_proxy

ASKED = msgspec.json.encode({"messages": [{"role": "user", "content": "Hello there, you"}], "stream": True})
LATENCY_S = 0.05


@asynccontextmanager
async def between(engine: Path, socket: Path, toxic: Toxic) -> AsyncIterator[None]:
    """A proxy on ``socket``, before the engine."""
    async with toxic_proxy(
        lambda: asyncio.open_unix_connection(str(engine)),
        lambda accept: asyncio.start_unix_server(accept, str(socket)),
        lambda: toxic,
    ):
        yield


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
