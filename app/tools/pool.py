"""Warm workers of one Confinement: behind their wall already, waiting for the one call they serve.

Knows neither tools nor how a worker is made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from app.errors import ToolError
from app.tasks import all_ended
from app.tools.workers import UNFIT, Worker


class Pool:
    """Keeps workers of one Confinement waiting; a call takes one, and the next is started when the call is over."""

    def __init__(self, start: Callable[[], Awaitable[Worker]], *, warm: int) -> None:
        """Nothing runs before ``fill``.

        Args:
            start: Makes a worker.
            warm: How many wait.
        """
        self.why_not: str | None = None
        """Why the last worker could not be confined, in words; None when nothing speaks against the next one."""
        self._make = start
        self._size = warm
        self._warm: deque[asyncio.Task[Worker]] = deque()
        self._burying: set[asyncio.Task[None]] = set()
        self._closed = False

    def fill(self) -> None:
        """Start as many workers as are missing, those that died while they waited among them."""
        for starting in [starting for starting in self._warm if _is_over(starting)]:
            self._warm.remove(starting)
            burying = asyncio.create_task(_end(starting))
            self._burying.add(burying)
            burying.add_done_callback(self._burying.discard)
        while len(self._warm) < self._size and not self._closed:
            self._warm.append(asyncio.create_task(self._start()))

    async def tried(self) -> None:
        """Wait until the workers that are starting are up, or have failed to come up."""
        await asyncio.wait(self._warm) if self._warm else None

    async def take(self) -> Worker:
        """A worker for one call; who takes it ends it.

        Raises:
            ToolError: None came up.
        """
        while self._warm:
            starting = self._warm.popleft()
            if _is_over(starting):
                await _end(starting)
                continue
            return await self._when_up(starting)
        return await self._when_up(asyncio.create_task(self._start()))

    async def close(self) -> None:
        """End every worker that waits."""
        self._closed = True
        while self._warm:
            await _end(self._warm.popleft())
        await all_ended(self._burying)

    async def _when_up(self, starting: asyncio.Task[Worker]) -> Worker:
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The caller went away, the worker is as good as before.
            self._warm.appendleft(starting)
            if self._closed:
                await asyncio.shield(self.close())
            raise

    async def _start(self) -> Worker:
        try:
            worker = await self._make()
        except ToolError as exc:
            if exc.code == UNFIT:
                self.why_not = exc.message
            raise
        self.why_not = None
        return worker


def _is_over(starting: asyncio.Task[Worker]) -> bool:
    return starting.done() and (starting.exception() is not None or not starting.result().running)


async def _end(starting: asyncio.Task[Worker]) -> None:
    # Why a worker did not come up was said where it failed.
    with contextlib.suppress(ToolError):
        await (await starting).end()
