"""Runs tools in workers outside this process, a pool for each Confinement. Never asks whether it may.

The service itself opens no path that a tool names: a link would lead it out of the roots with all its rights.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import ToolError
from app.journal import Journal, Trouble
from app.tools.base import Confinement, ToolSpec
from app.tools.pool import Pool, Worker
from app.units import format_duration

_AT_ONCE = 4
"""Calls that run at the same time; the others wait, so that a model cannot fill the machine with processes."""


@dataclass(frozen=True, slots=True)
class WorkerSurvived(Trouble):
    """A worker could not be ended."""

    pid: int


@dataclass(frozen=True, slots=True)
class WorkerDied(Trouble):
    """A worker ended in the middle of a call."""

    tool: str
    why: str


class Toolbox:
    """The workers, and the way to run a tool in one."""

    def __init__(self, journal: Journal, entries: Collection[str], *, warm: int = 2) -> None:
        """Nothing runs before ``keep`` or a call.

        Args:
            journal: Learns of workers that die or survive.
            entries: Where the tools are (``ToolSpec.entry``): every worker imports them ahead, and can run no other.
            warm: Workers that wait for each Confinement.
        """
        self._journal = journal
        self._entries = tuple(entries)
        self._size = warm
        self._pools: dict[Confinement, Pool] = {}
        self._running: set[Worker] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._closed = False

    def keep(self, confinements: Collection[Confinement]) -> None:
        """Keep workers warm for exactly these; those of any other Confinement end. Done at once, started meanwhile."""
        for confinement in self._pools.keys() - set(confinements):
            self._in_background(self._pools.pop(confinement).close())
        for confinement in confinements:
            self._pool(confinement).fill()

    async def ready(self) -> None:
        """Wait until what ``keep`` started is up, or has failed to come up."""
        await asyncio.gather(*(pool.tried() for pool in self._pools.values()))

    def why_not(self, confinement: Confinement) -> str | None:
        """Why no worker of this Confinement comes up here, in words; None when nothing speaks against it."""
        pool = self._pools.get(confinement)
        return None if pool is None else pool.why_not

    async def run(
        self, spec: ToolSpec, arguments: Mapping[str, Any], confinement: Confinement, timeout_s: float
    ) -> str:
        """Run one call in a worker of its own; a cancelled call ends its worker.

        Args:
            spec: The tool.
            arguments: Values that fit its schema.
            confinement: What the worker may reach.
            timeout_s: Seconds from the request to the answer; then the worker is killed.

        Returns:
            What the tool returned, as JSON.

        Raises:
            ToolError: The tool said no, or failed, or its worker did.
        """
        async with self._turns:
            self._refuse_when_closed()
            pool = self._pool(confinement)
            worker = await pool.take()
            self._running.add(worker)
            try:
                self._refuse_when_closed()
                async with asyncio.timeout(timeout_s):
                    said = await worker.ask({"entry": spec.entry, "arguments": dict(arguments)})
            except TimeoutError as exc:
                limit = format_duration(timeout_s)
                message = f"{spec.name} took longer than {limit} and was ended. Ask for less."
                raise ToolError(message, code="timeout") from exc
            except ToolError as exc:
                self._refuse_when_closed()
                self._journal.note(WorkerDied(spec.name, exc.message))
                message = f"{spec.name} broke off without an answer. Try another way."
                raise ToolError(message, code=exc.code) from exc
            finally:
                self._running.discard(worker)
                self._in_background(self._end(worker))
                pool.fill()
        if "result" not in said:
            raise ToolError(str(said.get("error")), code=str(said.get("code")))
        # What came out of a worker may hold half a character, which neither the store nor a client could take.
        return json.dumps(said["result"], ensure_ascii=False).encode(errors="replace").decode()

    async def close(self) -> None:
        """End every worker, those in the middle of a call too; nothing is left when this returns."""
        self._closed = True
        self.keep(())
        for worker in tuple(self._running):
            self._in_background(self._end(worker))
        # Every call in flight ends now: its worker is gone, or it meets the refusal before it asks one.
        for _ in range(_AT_ONCE):
            await self._turns.acquire()
        for _ in range(_AT_ONCE):
            self._turns.release()
        self.keep(())
        while self._ending:
            await asyncio.gather(*self._ending)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise ToolError("AirLab is shutting down; no tool runs any more.", code="shutting_down")

    def _pool(self, confinement: Confinement) -> Pool:
        if confinement not in self._pools:
            self._pools[confinement] = Pool(confinement, self._entries, self._journal, warm=self._size)
        return self._pools[confinement]

    async def _end(self, worker: Worker) -> None:
        if not await worker.end():
            self._journal.note(WorkerSurvived(worker.child.pid))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
