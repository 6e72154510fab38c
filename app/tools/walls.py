"""Tests the walls of each kind of worker, with a real worker that tries to get out, before that kind is offered.

The service's side of ``selftest/probes.py``. A kind whose worker got somewhere, or lacks what its tools need, is off.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import get_args

from app.errors import ToolError
from app.tools.base import Confinement, Protected, WorkerKind
from app.tools.workers import UNFIT, Worker

KINDS: tuple[WorkerKind, ...] = get_args(WorkerKind)
PROBE = "app.tools.selftest.probes:probe"
"""What a worker must have imported to be tested."""

_TEST_S = 10.0
_NAMED = 4

Start = Callable[[Confinement], Awaitable[Worker]]


async def try_walls(start: Start) -> dict[WorkerKind, str | None]:
    """Why each kind of worker is off, in words; None where its wall holds.

    Args:
        start: Makes a worker of a Confinement.
    """
    outcomes = await asyncio.gather(*(_try(start, kind) for kind in KINDS))
    return dict(zip(KINDS, outcomes, strict=True))


def confinement_in(room: Path, kind: WorkerKind) -> Confinement:
    """The Confinement of a worker that is tested in a room of ``make_room``."""
    if kind == "net":
        return Confinement(kind)
    root, closed = PurePosixPath(room / "inside"), PurePosixPath(room / "inside" / "closed")
    reading = kind == "fs_read"
    return Confinement(kind, (root,) if reading else (), () if reading else (root,), (Protected(closed, "tree"),))


def make_room() -> Path:
    """A folder of our own, with things in it that a worker may reach and things that it must not."""
    room = Path(tempfile.mkdtemp(prefix="airlab-selftest-")).resolve()
    for name in ("inside/open/file", "inside/open/empty", "inside/closed/secret", "outside/secret"):
        (room / name).parent.mkdir(parents=True, exist_ok=True)
        (room / name).write_text("" if name.endswith("empty") else name)
    (room / "inside/open/link").symlink_to(room / "outside/secret")
    return room


async def _try(start: Start, kind: WorkerKind) -> str | None:
    try:
        room = await asyncio.to_thread(make_room)
    except OSError as exc:
        return f"{kind} workers could not be tested: no folder for it in {tempfile.gettempdir()}: {exc.strerror}"
    try:
        try:
            said = await _probe(start, kind, room)
        except ToolError as exc:
            if exc.code == UNFIT:
                return exc.message
            # It said nothing about the wall: killed, or too slow on a busy machine.
            said = await _probe(start, kind, room)
    except ToolError as exc:
        return f"the self-test of {kind} workers broke off: {exc.message}"
    finally:
        await asyncio.to_thread(shutil.rmtree, room, ignore_errors=True)
    return _verdict(kind, said)


async def _probe(start: Start, kind: WorkerKind, room: Path) -> Mapping[str, object]:
    arguments = {"kind": kind, "room": str(room)}
    worker = await start(confinement_in(room, kind))
    try:
        async with asyncio.timeout(_TEST_S):
            return await worker.ask({"entry": PROBE, "arguments": arguments, "limit_s": _TEST_S, "may_destroy": False})
    except TimeoutError as exc:
        raise ToolError(f"no answer within {_TEST_S:.0f} s", code="timeout") from exc
    finally:
        await worker.end()


def _verdict(kind: WorkerKind, said: Mapping[str, object]) -> str | None:
    result = said.get("result")
    if not isinstance(result, dict):
        return f"the self-test of {kind} workers failed: {said.get('error')}"
    leaks, missing = result.get("leaks"), result.get("missing")
    if leaks:
        return f"the self-test of {kind} workers found what the wall lets through: {_listed(leaks)}"
    if missing:
        return f"the self-test of {kind} workers found that they lack what tools need: {_listed(missing)}"
    return None


def _listed(found: Mapping[str, str]) -> str:
    named = [f"{name} ({said})" for name, said in list(found.items())[:_NAMED]]
    more = len(found) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")
