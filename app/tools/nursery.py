"""The zygote as the service sees it: workers are asked for here, and a dead zygote is replaced at the next request.

The service's side of ``worker/zygote.py``. Knows no pools, and of tools only where they are.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import EngineError, ToolError
from app.journal import Journal, Trouble
from app.process import Child
from app.tools.base import ANSWER_BYTES, Confinement
from app.tools.workers import UNFIT, Worker

_ZYGOTE = Path(__file__).parent / "worker" / "zygote.py"
_START_S, _SETTLED_S = 20.0, 2.0
_PACKET_BYTES = 128 * 1024
_LOG_LINES = 3

_Made = tuple[int, int, int, "asyncio.Future[int | None]"]
"""A worker's process id, its channel, a descriptor of its process, and its exit code to be."""


@dataclass(frozen=True, slots=True)
class ZygoteDied(Trouble):
    """The process that workers are forked from ended by itself, and all of them with it."""

    why: str


@dataclass(frozen=True, slots=True)
class ZygoteSurvived(Trouble):
    """It, or something below it, could not be ended."""

    pid: int


class Nursery:
    """Keeps one zygote running for as long as workers are wanted."""

    def __init__(self, entries: Collection[str], journal: Journal, died: Callable[[], None]) -> None:
        """Nothing runs before a worker is asked for.

        Args:
            entries: The tools that every worker has, as ``module:name``.
            journal: Learns of a zygote's death.
            died: Called when a zygote that had been ready for a while died by itself. One that dies at once is replaced
                at the next request only, lest the machine does nothing else.
        """
        self._entries = tuple(entries)
        self._journal = journal
        self._died = died
        self._starting: asyncio.Task[_Zygote] | None = None
        self._began_s = 0.0
        self._closed = False

    async def worker(self, confinement: Confinement, *, degraded: bool = False) -> Worker:
        """A worker behind its wall, waiting for its call; who takes it ends it.

        Raises:
            ToolError: None came up; the message says why.
        """
        try:
            return await self._born(await self._zygote(), confinement, degraded=degraded)
        except _GoneError:
            # It died before the worker had anything to do: its successor is as good.
            zygote = await self._zygote()
        try:
            return await self._born(zygote, confinement, degraded=degraded)
        except _GoneError as exc:
            raise ToolError(await zygote.last_words(), code="worker_died") from exc

    async def _born(self, zygote: _Zygote, confinement: Confinement, *, degraded: bool) -> Worker:
        worker = await zygote.fork(confinement, degraded=degraded)
        try:
            await worker.get_ready()
        except ToolError as exc:
            if zygote.serves:
                raise
            raise _GoneError from exc
        return worker

    async def close(self) -> None:
        """End the zygote, and with it every worker there still is; nothing is left when this returns."""
        self._closed = True
        if self._starting is None:
            return
        await asyncio.wait({self._starting})
        if self._starting.exception() is None:
            zygote = self._starting.result()
            if not await zygote.end():
                self._journal.note(ZygoteSurvived(zygote.pid))

    async def _zygote(self) -> _Zygote:
        starting = self._starting
        if starting is None or (starting.done() and (starting.exception() or not starting.result().serves)):
            if self._closed:
                raise ToolError("AirLab is shutting down; no tool runs any more.", code="shutting_down")
            self._began_s = time.monotonic()
            starting = self._starting = asyncio.create_task(_Zygote.start(self._entries, self._lost))
        return await asyncio.shield(starting)

    def _lost(self, why: str) -> None:
        self._journal.note(ZygoteDied(why))
        if time.monotonic() - self._began_s > _SETTLED_S:
            self._died()


class _GoneError(Exception):
    """The zygote ended before it answered."""


class _Zygote:
    """One zygote process and its control socket."""

    def __init__(self, child: Child, control: socket.socket) -> None:
        """Use ``start``."""
        self.serves = True
        """False once it takes no more orders."""
        self.pid = child.pid
        self._child = child
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._asked: dict[int, asyncio.Future[_Made]] = {}
        self._exits: dict[int, asyncio.Future[int | None]] = {}
        self._ended_by_us = False
        self._watching: asyncio.Task[None] | None = None
        self._loop.add_reader(control, self._hear)

    @classmethod
    async def start(cls, entries: Collection[str], lost: Callable[[str], None]) -> _Zygote:
        """One that has imported everything; ``lost`` is called should it die by itself.

        Raises:
            ToolError: It did not come up.
        """
        if sys.platform != "linux":
            raise ToolError(f"only Linux's kernel can confine tools; this is {sys.platform}", code=UNFIT)
        zygote = await cls._spawn()
        try:
            await zygote._begin(entries, lost)  # noqa: SLF001 # our own
        except BaseException:
            await zygote.end()
            raise
        return zygote

    @classmethod
    async def _spawn(cls) -> _Zygote:
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            # -B: nothing behind the wall writes compiled modules.
            argv = [sys.executable, "-I", "-S", "-B", str(_ZYGOTE), str(theirs.fileno())]
            child = await Child.spawn(argv, environment={}, cwd=Path("/"), pass_fds=(theirs.fileno(),))
        except EngineError as exc:
            ours.close()
            raise ToolError(f"no tool worker could be started: {exc.message}", code="worker_died") from exc
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(child, ours)

    async def _begin(self, entries: Collection[str], lost: Callable[[str], None]) -> None:
        try:
            async with asyncio.timeout(_START_S):
                await self._send({"entries": list(entries)})
                await self._ready
        except (TimeoutError, _GoneError) as exc:
            await self.end()
            raise ToolError(await self.last_words(), code="worker_died") from exc
        self._watching = asyncio.create_task(self._watch(lost))

    async def fork(self, confinement: Confinement, *, degraded: bool) -> Worker:
        """A worker that is about to confine itself.

        Raises:
            ToolError: It could not be forked.
            _GoneError: The zygote is dead.
        """
        number = next(self._numbers)
        await self._send({"id": number, "confinement": confinement.to_json(), "degraded": degraded})
        # Not too late: the loop, which hears the answer, has not run since it was sent.
        asked = self._asked[number] = self._loop.create_future()
        try:
            pid, channel, watch, ended = await asked
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled() and asked.exception() is None:
                _let_go(asked.result()[1:3])
            raise
        finally:
            self._asked.pop(number, None)
        ours = socket.socket(fileno=channel)
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=ANSWER_BYTES + 1)
        except BaseException:
            ours.close()
            _let_go((watch,))
            raise
        return Worker(pid, watch, ended, reader, writer)

    async def end(self) -> bool:
        """Kill it and all its workers; True once nothing is left."""
        self._ended_by_us = True
        self._forget()
        gone = await self._child.stop(grace_s=0)
        if self._watching is not None:
            await asyncio.wait({self._watching})
        return gone

    async def last_words(self) -> str:
        """How it ended, once it has."""
        code = await self._child.exited()
        lines = " | ".join(list(self._child.log.lines)[-_LOG_LINES:])
        return f"the tool zygote ended (exit code {code})" + (f": {lines}" if lines else "")

    async def _watch(self, lost: Callable[[str], None]) -> None:
        why = await self.last_words()
        self._forget()
        if not self._ended_by_us:
            # What its workers started may have outlived it.
            await self._child.stop(grace_s=0)
            lost(why)

    async def _send(self, packet: Mapping[str, Any]) -> None:
        raw = json.dumps(packet).encode()
        if len(raw) > _PACKET_BYTES:
            raise ToolError("the policy has too many roots and protected paths for a tool worker", code=UNFIT)
        while self.serves:
            try:
                self._control.send(raw)
            except BlockingIOError:
                # Dozens of orders wait in its socket; it takes each in about a millisecond.
                await asyncio.sleep(0.005)
            except OSError:
                self._forget()
            else:
                return
        raise _GoneError

    def _hear(self) -> None:
        try:
            raw, descriptors, *_ = socket.recv_fds(self._control, _PACKET_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            raw, descriptors = b"", []
        if not raw:
            self._forget()
            return
        said = json.loads(raw)
        if "ready" in said:
            self._ready.set_result(None)
        elif "ended" in said:
            self._exits.pop(said["ended"]).set_result(said["code"])
        else:
            self._hand_over(said, descriptors)

    def _hand_over(self, said: dict[str, Any], descriptors: list[int]) -> None:
        asked = self._asked.pop(said["id"], None)
        if "pid" in said:
            ended = self._exits[said["id"]] = self._loop.create_future()
            if asked is not None and not asked.done():
                asked.set_result((said["pid"], *descriptors, ended))
            else:
                _let_go(descriptors)
        elif asked is not None and not asked.done():
            asked.set_exception(ToolError(said["why"], code="worker_died"))

    def _forget(self) -> None:
        """It takes no more orders; who waits for it learns so."""
        if not self.serves:
            return
        self.serves = False
        self._loop.remove_reader(self._control)
        self._control.close()
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._asked.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(_GoneError())
        for ended in self._exits.values():
            ended.set_result(None)
        self._exits.clear()
        self._asked.clear()


def _let_go(descriptors: Collection[int]) -> None:
    """A worker whose channel closes before a request came ends by itself."""
    for descriptor in descriptors:
        os.close(descriptor)
