"""What is told of a container while its daemon is away; the rest, with a real daemon, stands in test_docker.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from app.engines.docker_running import DockerRunning
from app.errors import EngineAwayError


class Daemon:
    """Knows one container that never ends, and can be away."""

    def __init__(self) -> None:
        self.is_away = False

    async def stats(self, _: str) -> dict[str, Any]:
        if self.is_away:
            raise EngineAwayError("Docker does not answer")
        return {"cpu_stats": {"cpu_usage": {"total_usage": 2_000_000_000}}, "memory_stats": {"usage": 5}}

    async def last_lines(self, *_: object) -> tuple[str, ...]:
        return ("loaded",)

    async def wait(self, _: str) -> bool:
        await asyncio.Event().wait()
        return True


async def test_what_a_container_did_before_its_daemon_went_away_is_no_sign_that_it_stands_still() -> None:
    """Else a long text that is read meanwhile would end its engine."""
    daemon: Any = Daemon()
    order: Any = SimpleNamespace(key="small", image=SimpleNamespace(id="sha256:1"))
    running = DockerRunning(daemon, "0123456789abcdef", Path("/nowhere/engine.sock"), order)
    try:
        await running._look()
        assert running._activity == (2.0, 0.0, 5.0)
        daemon.is_away = True
        await running._look()
        assert running._activity is None
        assert running.last_lines() == ("loaded",)
    finally:
        tasks = [task for task in (running._exit, running._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
