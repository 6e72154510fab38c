"""Tasks that nobody awaits one by one: a set of them, out of which each takes itself when it ends."""

from __future__ import annotations

import asyncio
from typing import Any


async def all_ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait until nothing is left in a set that each task leaves by a callback of its own; no error is raised here.

    Not with ``asyncio.gather``: since Python 3.12 it returns at once where all are done, without letting the event loop
    go on. So the callbacks that empty the set would not run, and this would wait for ever, at full speed.
    """
    while tasks:
        await asyncio.wait(tasks)
