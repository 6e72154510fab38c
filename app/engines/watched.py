"""A container of whoever runs it for us, watched from afar: looked at when asked, its end awaited, stopped once.

Knows neither Docker nor the launcher: what is asked of them, ``docker_running.py`` and ``launched.py`` fill in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path

from app.engines.base import Exit
from app.errors import EngineError

log = logging.getLogger("airlab")

_LOOK_S = 0.5
"""What a container does is asked no more often than this, and only while somebody wants to know."""
_AWAY_S = 0.3
"""Pause before who is away is asked again."""

Activity = tuple[float, ...]
Lines = tuple[str, ...]


class WatchedContainer(ABC):
    """A container; fulfils ``Running``."""

    pid: int | None = None
    fallback_because: str | None = None

    def __init__(self, key: str, container: str, socket: Path) -> None:
        """Watch from now on; ``container`` is its id as Docker shows it, short."""
        self.socket = socket
        self.container: str | None = container
        self._key = key
        self._is_gone = False
        self._activity: Activity | None = None
        self._lines: Lines = ()
        self._looked_s = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._exit = asyncio.create_task(self._until_ended())
        self._stopping: asyncio.Task[bool] | None = None

    @abstractmethod
    async def _see(self) -> tuple[Activity | None, Lines]:
        """What it does now, and the end of its log. Raises EngineError where nobody can tell."""

    @abstractmethod
    async def _ended(self) -> Exit:
        """Wait for its end. Raises EngineError where nobody can tell now: then it is asked again."""

    @abstractmethod
    async def _remove(self, grace_s: float) -> bool:
        """Have it stopped and removed; True once there is none. Raises EngineError where nobody can tell."""

    def activity(self) -> Activity | None:
        """Processor seconds, bytes read from disk, bytes of memory: as of the last look, and looks anew."""
        self._look_anew()
        return self._activity

    def last_lines(self) -> Lines:
        """The end of its log: as of the last look, and looks anew."""
        self._look_anew()
        return self._lines

    async def exited(self) -> Exit:
        """Wait for its end."""
        return await asyncio.shield(self._exit)

    async def stop(self, *, grace_s: float) -> bool:
        """Ask it to end, wait, kill it, remove it; True once whoever runs it says that there is none.

        False while they are away, for then nobody knows, and where they refuse.
        """
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._stop(grace_s))
        return await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> bool:
        try:
            self._is_gone = await self._remove(grace_s)
        except EngineError as exc:
            log.warning("cannot stop the container of %s: %s", self._key, exc.message)
            return False
        if self._is_gone and self._looking is not None:
            self._looking.cancel()
        return self._is_gone

    def _look_anew(self) -> None:
        now_s = time.monotonic()
        if (self._looking is None or self._looking.done()) and now_s - self._looked_s > _LOOK_S and not self._is_gone:
            self._looked_s = now_s
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            self._activity, self._lines = await self._see()
        except EngineError:
            self._activity = None  # away or gone: what was seen last is no sign of standing still

    async def _until_ended(self) -> Exit:
        while True:
            try:
                return await self._ended()
            except EngineError as exc:
                # One that restarts may or may not take its containers along: it is asked again.
                log.warning("cannot watch the container of %s: %s", self._key, exc.message)
                await asyncio.sleep(_AWAY_S)
