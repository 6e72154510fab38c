"""A container with llama-server, from its start to verified gone: watched, stopped, removed. Fulfils ``Running``.

``docker.py`` makes one; here nothing is created.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.engines.base import Exit
from app.engines.container import Order
from app.engines.daemon import Daemon, GoneError
from app.errors import EngineError

log = logging.getLogger("airlab")

LOG_LINES = 200
"""Of a container's log, at its end, that are kept for people."""
_LOOK_S = 0.5
"""What a container does is asked no more often than this, and only while somebody wants to know."""
_AWAY_S = 1.0
"""Pause before a daemon that is away is asked again."""
_KILLED_S = 5.0


class DockerRunning:
    """A container; fulfils ``Running``."""

    pid: int | None = None
    fallback_because: str | None = None

    def __init__(self, daemon: Daemon, container: str, socket: Path, order: Order) -> None:
        """Use ``DockerEngine.start``."""
        self.socket = socket
        self.id = container
        self.container: str | None = container[:12]
        self.image_id = order.image.id
        self.is_gone = False
        """True once nothing of it is left."""
        self._daemon, self._key = daemon, order.key
        self._activity: tuple[float, ...] | None = None
        self._lines: tuple[str, ...] = ()
        self._looked_s = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._exit = asyncio.create_task(self._until_ended())
        self._stopping: asyncio.Task[bool] | None = None

    def activity(self) -> tuple[float, ...] | None:
        """Processor seconds, bytes read from disk, bytes of memory: as of the last look, and looks anew."""
        self._look_anew()
        return self._activity

    def last_lines(self) -> tuple[str, ...]:
        """The end of its log: as of the last look, and looks anew."""
        self._look_anew()
        return self._lines

    async def exited(self) -> Exit:
        """Wait for its end."""
        return await asyncio.shield(self._exit)

    async def stop(self, *, grace_s: float) -> bool:
        """Ask it to end, wait, kill it, remove it; True once Docker says that there is none.

        False while Docker is away, for then nobody knows, and where it refuses.
        """
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._stop(grace_s))
        return await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> bool:
        try:
            if not self._exit.done():
                await self._kill("SIGTERM")
                await asyncio.wait({self._exit}, timeout=grace_s)
            if not self._exit.done():
                await self._kill("SIGKILL")
                await asyncio.wait({self._exit}, timeout=_KILLED_S)
            await self._daemon.remove(self.id)
            self.is_gone = await self._is_removed()
        except EngineError as exc:
            log.warning("cannot stop the container of %s: %s", self._key, exc.message)
            return False
        if self.is_gone:
            if self._looking is not None:
                self._looking.cancel()
            await asyncio.to_thread(remove_folder, self.socket)
        return self.is_gone

    async def _kill(self, signal: str) -> None:
        with contextlib.suppress(GoneError):
            await self._daemon.kill(self.id, signal)

    async def _is_removed(self) -> bool:
        try:
            await self._daemon.inspect(self.id)
        except GoneError:
            return True
        return False

    def _look_anew(self) -> None:
        now_s = time.monotonic()
        if (self._looking is None or self._looking.done()) and now_s - self._looked_s > _LOOK_S and not self.is_gone:
            self._looked_s = now_s
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            stats, self._lines = await asyncio.gather(
                self._daemon.stats(self.id), self._daemon.last_lines(self.id, LOG_LINES)
            )
        except EngineError:
            self._activity = None  # away or gone: what was seen last is no sign of standing still
            return
        self._activity = activity_of(stats)

    async def _until_ended(self) -> Exit:
        while True:
            try:
                if await self._daemon.wait(self.id):
                    return await self._ended()
            except GoneError:
                return Exit(-9, (*self._lines, "its container was removed by somebody else"))
            except EngineError as exc:
                # A daemon that restarts may or may not take its containers along: it is asked again.
                log.warning("cannot watch the container of %s: %s", self._key, exc.message)
                await asyncio.sleep(_AWAY_S)

    async def _ended(self) -> Exit:
        state = (await self._daemon.inspect(self.id))["State"]
        with contextlib.suppress(GoneError):
            self._lines = await self._daemon.last_lines(self.id, LOG_LINES)
        code = int(state["ExitCode"])
        # As a shell would, Docker says 128 + the signal's number.
        return Exit(code if code <= 128 else 128 - code, self._lines, bool(state["OOMKilled"]))


def activity_of(stats: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Processor seconds, bytes read from disk, bytes of memory; None where it has ended."""
    if not stats.get("memory_stats"):
        return None
    cpu_s = stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
    read = (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    read_bytes = sum(each["value"] for each in read if each["op"].lower() == "read")
    return cpu_s, float(read_bytes), float(stats["memory_stats"].get("usage", 0))


def remove_folder(socket: Path) -> None:
    """A container's own folder, with whatever it left there. Blocks as long as that takes."""
    try:
        shutil.rmtree(socket.parent)
    except FileNotFoundError:
        return
    except OSError as exc:
        log.warning("%s stays: %s", socket.parent, exc.strerror)
