"""A container with llama-server, from its start to verified gone, as Docker tells of it. Fulfils ``Running``.

``docker.py`` makes one; here nothing is created.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.engines.base import Exit
from app.engines.container import Order
from app.engines.daemon import Daemon, GoneError
from app.engines.watched import Activity, Lines, WatchedContainer

log = logging.getLogger("airlab")

LOG_LINES = 200
"""Of a container's log, at its end, that are kept for people."""
_KILLED_S = 5.0


class DockerRunning(WatchedContainer):
    """A container of this host's Docker."""

    def __init__(self, daemon: Daemon, container: str, socket: Path, order: Order) -> None:
        """Use ``DockerEngine.start``."""
        self.id = container
        self.image_id = order.image.id
        self._daemon = daemon
        super().__init__(order.key, container[:12], socket)

    async def _see(self) -> tuple[Activity | None, Lines]:
        stats, lines = await asyncio.gather(self._daemon.stats(self.id), self._daemon.last_lines(self.id, LOG_LINES))
        return activity_of(stats), lines

    async def _ended(self) -> Exit:
        try:
            while not await self._daemon.wait(self.id):
                pass
            state = (await self._daemon.inspect(self.id))["State"]
        except GoneError:
            return Exit(-9, (*self._lines, "its container was removed by somebody else"))
        with contextlib.suppress(GoneError):
            self._lines = await self._daemon.last_lines(self.id, LOG_LINES)
        code = int(state["ExitCode"])
        # As a shell would, Docker says 128 + the signal's number.
        return Exit(code if code <= 128 else 128 - code, self._lines, bool(state["OOMKilled"]))

    async def _remove(self, grace_s: float) -> bool:
        if not self._exit.done():
            await self._kill("SIGTERM")
            await asyncio.wait({self._exit}, timeout=grace_s)
        if not self._exit.done():
            await self._kill("SIGKILL")
            await asyncio.wait({self._exit}, timeout=_KILLED_S)
        await self._daemon.remove(self.id)
        if not await self._is_removed():
            return False
        await asyncio.to_thread(remove_folder, self.socket)
        return True

    async def _kill(self, signal: str) -> None:
        with contextlib.suppress(GoneError):
            await self._daemon.kill(self.id, signal)

    async def _is_removed(self) -> bool:
        try:
            await self._daemon.inspect(self.id)
        except GoneError:
            return True
        return False


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
