"""An event loop whose time is stepped: a wait of ten minutes takes none, and the same test gives the same order.

The loop's clock and ``time.monotonic`` are one, as they are on a real loop; both move only when nothing is left to do
but to wait.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Steps(selectors.DefaultSelector):
    """Does not wait: sets the clock forward by what it was asked to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen")
        if not ready and timeout:
            self.now_s += timeout
        return ready


async def _end_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def virtual_time() -> Iterator[asyncio.AbstractEventLoop]:
    """A new loop on stepped time; ``time.monotonic`` tells the loop's time for as long as the block lasts."""
    steps = _Steps()
    real = time.monotonic
    loop = asyncio.SelectorEventLoop(steps)
    # Whatever goes wrong in a callback or in a task that nobody awaits is a failure of the test.
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    time.monotonic = lambda: steps.now_s
    try:
        yield loop
        assert not faults, faults
    finally:
        loop.run_until_complete(_end_all())
        time.monotonic = real
        loop.close()
