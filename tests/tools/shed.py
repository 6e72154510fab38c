"""A toolbox with every tool and every canary, and ways to look at the processes behind it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import PurePosixPath

import psutil
import pytest

from app.errors import ToolError
from app.journal import Fact, Journal
from app.tools.base import Confinement, ToolSpec, WorkerKind, discover
from app.tools.toolbox import Toolbox
from tests.tools import canaries

BOUND_S = 30
SPECS = discover()
CANARIES = {
    name: made.spec for name in dir(canaries) if (made := getattr(canaries, name)) and type(made).__name__ == "Tool"
}


@asynccontextmanager
async def toolbox_noting(note: Callable[[Fact], None], *, warm: int = 1) -> AsyncIterator[Toolbox]:
    """A toolbox, and nothing of it afterwards."""
    journal = Journal()
    journal.subscribe(note)
    toolbox = Toolbox(journal, [spec.entry for spec in (*SPECS.values(), *CANARIES.values())], warm=warm)
    try:
        yield toolbox
    finally:
        async with asyncio.timeout(BOUND_S):
            await toolbox.close()
    assert zygotes_of(os.getpid()) == []


def zygotes_of(pid: int) -> list[psutil.Process]:
    # Its own only: a service that other tests share has some too.
    return [child for child in psutil.Process(pid).children() if _is_zygote(child)]


def _is_zygote(process: psutil.Process) -> bool:
    try:
        return any("worker/zygote.py" in word for word in process.cmdline())
    except psutil.NoSuchProcess:  # it ended meanwhile
        return False


def workers_of(pid: int) -> list[psutil.Process]:
    # A worker that ended is buried a moment later.
    return [worker for zygote in zygotes_of(pid) for worker in zygote.children() if lives(worker)]


def within(kind: WorkerKind, root: object) -> Confinement:
    """The Confinement of one root."""
    roots = (PurePosixPath(str(root)),)
    return Confinement(kind, read=roots) if kind == "fs_read" else Confinement(kind, write=roots)


async def run(toolbox: Toolbox, spec: ToolSpec, inside: Confinement, **arguments: object) -> object:
    async with asyncio.timeout(BOUND_S):
        return json.loads(await toolbox.run(spec, arguments, inside, BOUND_S))


async def code_of(toolbox: Toolbox, spec: ToolSpec, inside: Confinement, **arguments: object) -> str:
    with pytest.raises(ToolError) as caught:
        await run(toolbox, spec, inside, **arguments)
    return caught.value.code


async def attempt(toolbox: Toolbox, inside: Confinement, action: str, path: object) -> str:
    """What came of one thing done with the file system, in a worker: ``done``, or the error's name."""
    said = await run(toolbox, CANARIES["attempt"], inside, action=action, path=str(path))
    assert isinstance(said, str)
    return said


async def begun(toolbox: Toolbox) -> None:
    """Wait until a call has its worker."""
    async with asyncio.timeout(BOUND_S):
        while not toolbox._running:  # noqa: ASYNC110 # the toolbox has no reason to announce it
            await asyncio.sleep(0.001)


async def spins(worker: psutil.Process) -> None:
    """Wait until a worker has heard of its call, ``spin``: one that waits for it takes no processor time."""
    begin_s = sum(worker.cpu_times()[:2])
    async with asyncio.timeout(BOUND_S):
        while sum(worker.cpu_times()[:2]) < begin_s + 0.05:  # noqa: ASYNC110 # the kernel's counters make no event
            await asyncio.sleep(0.005)


def lives(process: psutil.Process) -> bool:
    """False also for one that only waits to be buried by whoever adopted it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(processes: list[psutil.Process]) -> bool:
    """True once they all are."""
    async with asyncio.timeout(BOUND_S):
        while any(map(lives, processes)):  # noqa: ASYNC110 # they are nobody's children here
            await asyncio.sleep(0.005)
    return True
