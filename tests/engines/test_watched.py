"""What is true of every container that is watched from afar, whoever runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.engines.base import Exit
from app.engines.watched import Activity, Lines, WatchedContainer
from app.errors import EngineAwayError


class Scripted(WatchedContainer):
    """Counts what is asked; answers as it is told."""

    def __init__(self) -> None:
        self.looks = self.removals = self.waits = 0
        self.may_tell, self.may_end, self.may_go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.away = 0
        super().__init__("small", "0123456789ab", Path("/nowhere/engine.sock"))

    async def _see(self) -> tuple[Activity | None, Lines]:
        self.looks += 1
        await self.may_tell.wait()
        return (1.0,), ("loaded",)

    async def _ended(self) -> Exit:
        self.waits += 1
        if self.waits <= self.away:
            raise EngineAwayError("nobody answers")
        await self.may_end.wait()
        return Exit(0, ("done",))

    async def _remove(self, grace_s: float) -> bool:
        self.removals += 1
        await self.may_go.wait()
        return True


@asynccontextmanager
async def watched() -> AsyncIterator[Scripted]:
    running = Scripted()
    try:
        yield running
    finally:
        tasks = [task for task in (running._exit, running._looking, running._stopping) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_look_serves_all_who_ask_while_it_is_under_way_and_for_a_while_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with watched() as running:
        for _ in range(3):
            assert (running.activity(), running.last_lines()) == (None, ())
            running._looked_s = 0.0  # it began long ago
            await asyncio.sleep(0)
        monkeypatch.setattr("app.engines.watched._LOOK_S", float("inf"))
        running.may_tell.set()
        assert running._looking is not None
        await running._looking

        assert (running.activity(), running.last_lines()) == ((1.0,), ("loaded",))
        assert running._looking.done(), "no new look was begun"
        assert running.looks == 1


async def test_callers_share_one_stop_and_one_of_them_may_leave() -> None:
    async with watched() as running:
        leaves, stays = (asyncio.create_task(running.stop(grace_s=1)) for _ in range(2))
        await asyncio.wait({leaves}, timeout=0)
        leaves.cancel()
        running.may_go.set()

        assert await stays
        assert running.removals == 1


async def test_what_is_gone_is_not_looked_at_any_more() -> None:
    async with watched() as running:
        running.activity()
        assert running._looking is not None
        running.may_go.set()
        assert await running.stop(grace_s=1)
        assert running._looking.cancelling()
        await asyncio.wait({running._looking})
        running._looked_s = 0.0
        running.activity()

        assert running._looking.cancelled(), "no new look was begun"


async def test_end_is_asked_for_again_where_nobody_could_tell(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.engines.watched._AWAY_S", 0.0)
    async with watched() as running:
        running.away = 2
        running.may_end.set()

        assert await running.exited() == Exit(0, ("done",))
        assert running.waits == 3
        assert "cannot watch the container of small: nobody answers" in caplog.text
