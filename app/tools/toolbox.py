"""Runs tools in workers outside this process, a pool for each Confinement. Never asks whether it may.

The service itself opens no path that a tool names: a link would lead it out of the roots with all its rights. No tool
runs in a kind of worker whose wall was not tried first.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from app.errors import ToolError
from app.journal import Fact, Journal, Trouble
from app.tasks import all_ended
from app.tools.base import Confinement, ToolSpec, WorkerKind
from app.tools.declared import RUNNERS
from app.tools.nursery import Nursery
from app.tools.pool import Pool
from app.tools.walls import KINDS, PROBE, try_walls
from app.tools.workers import UNASKED, UNFIT, Worker
from app.units import format_duration

_AT_ONCE = 4
"""Calls that run at the same time; the others wait, so that a model cannot fill the machine with processes."""


@dataclass(frozen=True, slots=True)
class WallsTried(Fact):
    """Every kind of worker tried to get out."""

    hold: str
    took_s: float


@dataclass(frozen=True, slots=True)
class ToolsUnavailable(Trouble):
    """Workers of one kind cannot be confined on this system, so the tools that need them are not offered."""

    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class ToolsUnconfined(Trouble):
    """Tools that read files run without the kernel's wall, as policy.sandbox: degraded asks for."""

    why: str


@dataclass(frozen=True, slots=True)
class WorkerSurvived(Trouble):
    """A worker could not be ended."""

    pid: int


@dataclass(frozen=True, slots=True)
class WorkerDied(Trouble):
    """A worker ended in the middle of a call."""

    tool: str
    why: str


@dataclass(frozen=True, slots=True)
class ToolBroke(Trouble):
    """A tool's code failed in a way that it does not know of."""

    tool: str
    trace: str


class Toolbox:
    """The workers, and the way to run a tool in one."""

    def __init__(self, journal: Journal, entries: Collection[str], *, warm: int = 2) -> None:
        """Nothing runs before ``keep``, ``check`` or a call.

        Args:
            journal: Learns of walls that do not hold, and of workers that die or survive.
            entries: Where the tools are (``ToolSpec.entry``): every worker has them imported, and can run no other.
            warm: Workers that wait for each Confinement.
        """
        self._journal = journal
        self._nursery = Nursery((*entries, *RUNNERS, PROBE), journal, self._fill)
        self._size = warm
        self._pools: dict[Confinement, Pool] = {}
        self._walls: dict[WorkerKind, str | None] = {}
        """What came of trying them: why a kind is off, None where its wall holds; empty before."""
        self._trying: asyncio.Task[None] | None = None
        self._degraded = False
        self._running: set[Worker] = set()
        self._ending: set[asyncio.Task[Any]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._closed = False

    def keep(self, confinements: Collection[Confinement], *, degraded: bool = False) -> None:
        """Keep workers warm for exactly these; those of any other Confinement end. Done at once, started meanwhile.

        Args:
            confinements: What tools in force run in.
            degraded: Where the kernel cannot confine them, run tools that read files all the same.
        """
        wanted = {replace(confinement, may_destroy=False) for confinement in confinements}
        dropped = self._pools.keys() - wanted
        if degraded != self._degraded:
            self._degraded = degraded
            dropped |= {confinement for confinement in self._pools if self._walls.get(confinement.kind) is not None}
            self._say_if_degraded()
        for confinement in dropped:
            self._in_background(self._pools.pop(confinement).close())
        for confinement in wanted:
            self._pool(confinement)
        if self._walls:
            self._fill()
        elif wanted and not self._closed:
            self._in_background(self.check())

    async def check(self) -> Mapping[WorkerKind, str | None]:
        """Try every wall, once; whoever comes later gets what came of it.

        Returns:
            What ``enforced`` says from then on.
        """
        if self._trying is None:
            self._trying = asyncio.create_task(self._try_walls())
        await asyncio.shield(self._trying)
        return self.enforced()

    async def ready(self) -> None:
        """Wait until what ``keep`` started is up, or has failed to come up."""
        if self._pools:
            await self.check()
        await asyncio.gather(*(pool.tried() for pool in self._pools.values()))

    def enforced(self) -> Mapping[WorkerKind, str | None]:
        """For each kind of worker: None where the kernel's wall was tried and holds, else why not, in words."""
        return {kind: self._walls.get(kind, "its wall has not been tried yet") for kind in KINDS}

    def why_not(self, confinement: Confinement) -> str | None:
        """Why no worker of this Confinement comes up here, in words; None when nothing speaks against it (yet)."""
        pool = self._pools.get(replace(confinement, may_destroy=False))
        return self._why_off(confinement.kind) or (None if pool is None else pool.why_not)

    async def run(
        self,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        confinement: Confinement,
        timeout_s: float,
        *,
        may_destroy: bool = False,
    ) -> str:
        """Run one call in a worker of its own; a cancelled call ends its worker.

        Args:
            spec: The tool.
            arguments: Values that fit its schema.
            confinement: What the worker may reach.
            timeout_s: Seconds from the request to the answer; then the worker is killed.
            may_destroy: Whether this call may overwrite or take away what is there.

        Returns:
            What the tool returned, as JSON.

        Raises:
            ToolError: The tool said no, or failed, or its worker did, or this system cannot confine it.
        """
        request = {
            "entry": spec.entry,
            "arguments": _with_settings(spec, arguments),
            "may_destroy": may_destroy,
            "limit_s": timeout_s,
        }
        async with self._turns:
            self._refuse_when_closed()
            if not self._walls:
                await self.check()
                self._refuse_when_closed()
            off = self._why_off(confinement.kind)
            if off is not None:
                raise ToolError(f"{spec.name} cannot run here: {off}. Do without it.", code=UNFIT)
            said = await self._ask(spec.name, request, self._pool(confinement), timeout_s)
        if "result" not in said:
            if "trace" in said:
                self._journal.note(ToolBroke(spec.name, str(said["trace"])))
            raise ToolError(str(said.get("error")), code=str(said.get("code")))
        # What came out of a worker may hold half a character, which neither the store nor a client could take.
        return json.dumps(said["result"], ensure_ascii=False).encode(errors="replace").decode()

    async def close(self) -> None:
        """End every worker, those in the middle of a call too; nothing is left when this returns."""
        self._closed = True
        self.keep(())
        for worker in tuple(self._running):
            self._in_background(self._end(worker))
        await self._nursery.close()
        # Every call in flight ends now: its worker is gone, or it meets the refusal before it asks one.
        for _ in range(_AT_ONCE):
            await self._turns.acquire()
        for _ in range(_AT_ONCE):
            self._turns.release()
        self.keep(())
        if self._trying is not None:
            await asyncio.wait({self._trying})
        await all_ended(self._ending)

    async def _ask(self, tool: str, request: Mapping[str, Any], pool: Pool, timeout_s: float) -> dict[str, Any]:
        """The answer of a worker that looked at things as they are now; the next is asked where one was gone before."""
        for left in reversed(range(self._size + 1)):
            try:
                worker = await pool.take()
            except ToolError:
                self._refuse_when_closed()
                raise
            self._running.add(worker)
            try:
                self._refuse_when_closed()
                async with asyncio.timeout(timeout_s):
                    said = await worker.ask(request)
            except TimeoutError as exc:
                limit = format_duration(timeout_s)
                raise ToolError(
                    f"{tool} took longer than {limit} and was ended. Ask for less.", code="timeout"
                ) from exc
            except ToolError as exc:
                self._refuse_when_closed()
                self._journal.note(WorkerDied(tool, exc.message))
                if exc.code == UNASKED and left:
                    continue
                raise ToolError(f"{tool} broke off without an answer. Try another way.", code=exc.code) from exc
            finally:
                self._running.discard(worker)
                self._in_background(self._end(worker))
                pool.fill()
            if "stale" not in said:
                return said
        raise ToolError(f"The folders of {tool} are being replaced again and again. Try once more.", code="busy")

    async def _try_walls(self) -> None:
        begin_s = time.monotonic()
        walls = await try_walls(self._nursery.worker)
        if self._closed:
            return
        self._walls = walls
        for kind, why in walls.items():
            if why is not None:
                self._journal.note(ToolsUnavailable(kind, why))
        hold = ", ".join(kind for kind, why in walls.items() if why is None) or "none"
        self._journal.note(WallsTried(hold, time.monotonic() - begin_s))
        self._say_if_degraded()
        self._fill()

    def _why_off(self, kind: WorkerKind) -> str | None:
        why = self._walls.get(kind)
        return None if self._degraded and kind == "fs_read" else why

    def _say_if_degraded(self) -> None:
        why = self._walls.get("fs_read")
        if self._degraded and why is not None:
            self._journal.note(ToolsUnconfined(why))

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise ToolError("AirLab is shutting down; no tool runs any more.", code="shutting_down")

    def _pool(self, confinement: Confinement) -> Pool:
        # Whether a call may destroy is said with the call, so all of them share one pool.
        confinement = replace(confinement, may_destroy=False)
        if confinement not in self._pools:
            start = partial(self._start, confinement)
            self._pools[confinement] = Pool(start, warm=self._size)
        return self._pools[confinement]

    async def _start(self, confinement: Confinement) -> Worker:
        degraded = self._degraded and self._walls.get(confinement.kind) is not None
        try:
            return await self._nursery.worker(confinement, degraded=degraded)
        except ToolError as exc:
            pool = self._pools.get(confinement)
            if exc.code == UNFIT and pool is not None and pool.why_not != exc.message:
                self._journal.note(ToolsUnavailable(confinement.kind, exc.message))
            raise

    def _fill(self) -> None:
        for confinement, pool in self._pools.items():
            if self._why_off(confinement.kind) is None:
                pool.fill()

    async def _end(self, worker: Worker) -> None:
        if not await worker.end():
            self._journal.note(WorkerSurvived(worker.pid))

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _with_settings(spec: ToolSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a tool's function takes: of a declared one, the manifest's settings and the values of its secrets too.

    Raises:
        ToolError: ``not_configured``: an environment variable is not set.
    """
    if not spec.is_declared:
        return dict(arguments)
    missing = [name for name in spec.secrets if not os.environ.get(name)]
    if missing:
        message = f"{spec.name} needs {', '.join(missing)} in AirLab's environment, which is not set. Tell the user."
        raise ToolError(message, code="not_configured")
    secrets = {name: os.environ[name] for name in spec.secrets}
    return {"arguments": dict(arguments), "settings": json.loads(spec.settings), "secrets": secrets}
