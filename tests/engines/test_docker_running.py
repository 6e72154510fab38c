"""What is told of a container while Docker is away or refuses; the rest stands in test_docker.py, with a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.engines.daemon import GoneError
from app.engines.docker_running import DockerRunning
from app.errors import EngineAwayError, EngineError


class Daemon:
    """Knows one container that ends when it is killed, and can be away or refuse to remove it."""

    def __init__(self) -> None:
        self.is_away, self.refusal = False, ""
        self.is_gone, self.ended = False, asyncio.Event()

    async def stats(self, _: str) -> dict[str, Any]:
        if self.is_away:
            raise EngineAwayError("Docker does not answer")
        return {"cpu_stats": {"cpu_usage": {"total_usage": 2_000_000_000}}, "memory_stats": {"usage": 5}}

    async def last_lines(self, *_: object) -> tuple[str, ...]:
        return ("loaded",)

    async def wait(self, _: str) -> bool:
        return await self.ended.wait()

    async def kill(self, *_: str) -> None:
        self.ended.set()

    async def inspect(self, _: str) -> dict[str, Any]:
        if self.is_gone:
            raise GoneError("No such container")
        return {"State": {"ExitCode": 143, "OOMKilled": False}}

    async def remove(self, _: str) -> None:
        if self.refusal:
            raise EngineError(self.refusal)
        self.is_gone = True


@asynccontextmanager
async def running_of(daemon: Any) -> AsyncIterator[DockerRunning]:
    order: Any = SimpleNamespace(key="small", image=SimpleNamespace(id="sha256:1"))
    running = DockerRunning(daemon, "0123456789abcdef", Path("/nowhere/engine.sock"), order)
    try:
        yield running
    finally:
        tasks = [task for task in (running._exit, running._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_a_container_did_before_its_daemon_went_away_is_no_sign_that_it_stands_still() -> None:
    """Else a long text that is read meanwhile would end its engine."""
    daemon = Daemon()
    async with running_of(daemon) as running:
        await running._look()
        assert running._activity == (2.0, 0.0, 5.0)
        daemon.is_away = True
        await running._look()
        assert running._activity is None
        assert running.last_lines() == ("loaded",)


async def test_container_that_docker_refuses_to_remove_survived_and_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error out of a stop would end whoever removes several: the launcher's watch over its leases."""
    daemon = Daemon()
    daemon.refusal = "Docker refused: device or resource busy"
    async with running_of(daemon) as running:
        assert not await running.stop(grace_s=1)
        assert "cannot stop the container of small: Docker refused: device or resource busy" in caplog.text
        daemon.refusal = ""
        assert await running.stop(grace_s=1)
        assert (await running.exited()).code == -15
