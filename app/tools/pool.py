"""Warm workers of one Confinement: started ahead, imports done and locked down, waiting for the one call they serve.

Knows nothing of tools beyond their entries. The service's side of ``worker/entry.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import EngineError, ToolError
from app.journal import Journal, Trouble
from app.process import Child
from app.tools.base import ANSWER_BYTES, Confinement

_ENTRY = Path(__file__).parent / "worker" / "entry.py"
_START_S = 20.0
_LOG_LINES = 3

UNFIT = "tools_unavailable"
"""The code of a failure that the next start would meet again: this system lacks what the worker needs."""


@dataclass(frozen=True, slots=True)
class ToolsUnavailable(Trouble):
    """Workers of one kind cannot run on this system, so the tools that need them are not offered."""

    kind: str
    why: str


class Worker:
    """One worker process and the channel to it."""

    def __init__(self, child: Child, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use ``Worker.start``."""
        self.child = child
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, confinement: Confinement, entries: Collection[str]) -> Worker:
        """A worker that is locked down and waits for its call.

        Raises:
            ToolError: It did not come up; the message says why.
        """
        worker = await cls._spawn()
        try:
            async with asyncio.timeout(_START_S):
                said = await worker.ask({"confinement": confinement.to_json(), "entries": list(entries)})
        except TimeoutError as exc:
            await worker.end()
            raise ToolError(f"a tool worker was not ready within {_START_S:.0f} s", code="worker_died") from exc
        except BaseException:
            await worker.end()
            raise
        if said.get("ready") is not True:
            await worker.end()
            raise ToolError(str(said.get("why")), code=UNFIT)
        return worker

    @classmethod
    async def _spawn(cls) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            number = theirs.fileno()
            # -B: a worker may write no file, not even compiled modules.
            argv = [sys.executable, "-I", "-S", "-B", str(_ENTRY), str(number)]
            child = await Child.spawn(argv, environment={}, cwd=Path("/"), pass_fds=(number,))
        except EngineError as exc:
            ours.close()
            raise ToolError(f"no tool worker could be started: {exc.message}", code="worker_died") from exc
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=ANSWER_BYTES + 1)
        return cls(child, reader, writer)

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send one line, wait for one line.

        Raises:
            ToolError: ``worker_died``: it ended, or answered with what is no answer.
        """
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            said = json.loads(await self._reader.readuntil(b"\n"))
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as exc:
            raise ToolError(await self._last_words(), code="worker_died") from exc
        if not isinstance(said, dict):
            raise ToolError(await self._last_words(), code="worker_died")
        return said

    async def _last_words(self) -> str:
        await self.end()
        code = await self.child.exited()
        lines = " | ".join(list(self.child.log.lines)[-_LOG_LINES:])
        return f"the worker ended without an answer (exit code {code})" + (f": {lines}" if lines else "")

    async def end(self) -> bool:
        """Kill it, with whatever it started; True once nothing is left."""
        self._writer.close()
        return await self.child.stop(grace_s=0)


class Pool:
    """Keeps workers of one Confinement waiting; a call takes one, and the next is started when the call is over."""

    def __init__(self, confinement: Confinement, entries: Collection[str], journal: Journal, *, warm: int) -> None:
        """Nothing runs before ``fill``."""
        self.why_not: str | None = None
        """Why no worker can run on this system, in words; None when nothing speaks against it."""
        self._journal = journal
        self._confinement = confinement
        self._entries = entries
        self._size = warm
        self._warm: deque[asyncio.Task[Worker]] = deque()
        self._closed = False

    def fill(self) -> None:
        """Start as many workers as are missing."""
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
            if starting.done() and (starting.exception() is not None or not starting.result().child.running):
                await _end(starting)
                continue
            return await self._when_up(starting)
        return await self._when_up(asyncio.create_task(self._start()))

    async def close(self) -> None:
        """End every worker that waits."""
        self._closed = True
        while self._warm:
            await _end(self._warm.popleft())

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
            return await Worker.start(self._confinement, self._entries)
        except ToolError as exc:
            if exc.code == UNFIT and self.why_not is None:
                self.why_not = exc.message
                self._journal.note(ToolsUnavailable(self._confinement.kind, exc.message))
            raise


async def _end(starting: asyncio.Task[Worker]) -> None:
    # A worker that did not come up has ended already, and its pool has said why.
    with contextlib.suppress(ToolError):
        await (await starting).end()
