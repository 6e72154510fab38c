"""llama-server in containers that the launcher starts: we name a model, and never see Docker. Fulfils ``Engine``.

One connection, over which every request and its answer go; a heartbeat on it is our lease on what runs for us.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import time
from pathlib import Path
from typing import Any

from app.devices.ask import printable
from app.devices.gpus import Answer, parse_nvidia_smi
from app.engines.base import Exit, Launch
from app.engines.command import as_written
from app.engines.container import section_of, spec_digest
from app.engines.watched import Activity, Lines, WatchedContainer
from app.engines.wire import HEARTBEAT_S, LINE_BYTES, exit_of, line_of, numbers_of, raise_error
from app.errors import EngineAwayError, EngineError, LauncherRefusedError

_CALL_S = 60.0
"""A start is several calls of the launcher to Docker, of 10 s at most each."""
_CONNECT_S = 5.0
_AWAY_S = 1.0
_GPUS_S = 12.0
_COMING_UP_S, _KNOCK_S = 3.0, 0.05


class LaunchedEngine:
    """Asks the launcher on this socket."""

    def __init__(self, socket: Path) -> None:
        """Nothing is connected yet."""
        self._link = Link(socket)
        self._swept, self._sweeping = False, asyncio.Lock()

    async def start(self, launch: Launch) -> LaunchedRunning:
        """Ask for a container. Raises EngineError."""
        run, instance = launch.run, launch.socket.stem
        section_of(run)
        async with self._sweeping:
            if not self._swept:  # the launcher was away when this process started
                await self._sweep()
        numbers = {**numbers_of(launch.fit or as_written(run)), "is_booked": launch.fit is not None}
        asked = {"op": "start", "key": launch.key, "instance": instance, "digest": spec_digest(run), **numbers}
        starting = asyncio.create_task(self._link.ask(**asked))
        try:
            told = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await self._link.end_unowned(starting, instance)
            raise
        except EngineAwayError:
            # It may have been started all the same.
            self._link.end_later(instance)
            raise
        return LaunchedRunning(self._link, launch.key, instance, told)

    async def sweep(self) -> None:
        """Have everything removed that runs for us. Raises EngineAwayError."""
        async with self._sweeping:
            await self._sweep()

    async def _sweep(self) -> None:
        await self._link.ask(op="sweep")
        self._swept = True

    def close(self) -> None:
        """Leave."""
        self._link.close()


class Link:
    """The connection to the launcher: made when it is needed, made again when it broke."""

    def __init__(self, socket: Path) -> None:
        """Nothing is connected yet."""
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._connecting = asyncio.Lock()
        self._closed = False

    async def ask(self, *, limit_s: float | None = _CALL_S, **told: Any) -> dict[str, Any]:
        """Ask and wait for the answer. Raises EngineAwayError, and what the launcher says went wrong."""
        writer = await self._connected()
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            writer.write(line_of({"id": number, **told}))
            async with asyncio.timeout(limit_s):
                await writer.drain()
                found = await answer
        except TimeoutError as exc:
            raise EngineAwayError(f"the launcher did not answer within {limit_s:g} s") from exc
        except OSError as exc:
            raise EngineAwayError(_gone(exc)) from exc
        finally:
            self._waiting.pop(number, None)
        raise_error(found)
        return found

    async def end_unowned(self, starting: asyncio.Task[dict[str, Any]], instance: str) -> None:
        """Begun is begun: what nobody owns any more ends as soon as it exists."""
        await asyncio.wait({starting})
        self.end_later(instance)

    def end_later(self, instance: str) -> None:
        """Have it removed, in our own time; the launcher's lease does so once we have left."""
        task = asyncio.create_task(self._end(instance))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, instance: str) -> None:
        # Until there is none: what the launcher has still to start can be stopped only once it exists, and no lease
        # ends while we are there.
        while not self._closed:
            with contextlib.suppress(EngineError):
                if (await self.ask(op="stop", instance=instance, grace_s=0.0))["gone"]:
                    return
            await asyncio.sleep(_AWAY_S)

    def close(self) -> None:
        """Leave."""
        self._closed = True
        for task in (*self._tasks, *self._ending):
            task.cancel()
        self._lost(EngineAwayError("AirLab has left the launcher"))

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._closed:
                raise EngineAwayError("AirLab has left the launcher")
            if self._writer is None or self._writer.is_closing():
                try:
                    async with asyncio.timeout(_CONNECT_S):
                        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=2 * LINE_BYTES)
                except (OSError, TimeoutError) as exc:
                    raise EngineAwayError(f"the launcher does not answer at {self._socket}: {_gone(exc)}") from exc
                for task in self._tasks:
                    task.cancel()
                self._writer = writer
                self._tasks = [asyncio.create_task(self._read(reader)), asyncio.create_task(self._beat())]
            return self._writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        why = "the launcher closed the connection"
        try:
            while line := await reader.readline():
                told = json.loads(line)
                answer = self._waiting.get(told["id"])
                if answer is not None and not answer.done():
                    answer.set_result(told)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            why = f"the launcher broke off: {_gone(exc)}"
        self._lost(EngineAwayError(why))

    async def _beat(self) -> None:
        """Keep the lease. A launcher that does not answer is noticed by whoever asks it for more."""
        while True:
            with contextlib.suppress(EngineError):
                await self.ask(limit_s=HEARTBEAT_S, op="beat")
            await asyncio.sleep(HEARTBEAT_S)

    def _lost(self, why: EngineAwayError) -> None:
        if self._writer is not None:
            self._writer.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(why)


class LaunchedRunning(WatchedContainer):
    """A container that the launcher keeps for us."""

    def __init__(self, link: Link, key: str, instance: str, told: dict[str, Any]) -> None:
        """Use ``LaunchedEngine.start``."""
        self._link, self._instance = link, instance
        super().__init__(key, str(told["container"]), Path(str(told["socket"])))

    async def _see(self) -> tuple[Activity | None, Lines]:
        told = await self._link.ask(op="look", instance=self._instance)
        activity = None if told["activity"] is None else tuple(map(float, told["activity"]))
        return activity, tuple(map(str, told["last_lines"]))

    async def _ended(self) -> Exit:
        try:
            return exit_of(await self._link.ask(limit_s=None, op="wait", instance=self._instance))
        except LauncherRefusedError:
            # One that was started anew has removed what its predecessor had started.
            return Exit(-9, (*self._lines, "the launcher was started anew, and removed its container"))

    async def _remove(self, grace_s: float) -> bool:
        return bool((await self._link.ask(op="stop", instance=self._instance, grace_s=grace_s))["gone"])


def gpus_through(place: Path) -> Answer:
    """The GPUs that the launcher's Docker can hand to a container. Blocks for 15 s at most, and never raises."""
    source = "the launcher"
    try:
        answer = _ask_once(place)
        raise_error(answer)
        gpus = parse_nvidia_smi(str(answer["nvidia_smi"]))
    except EngineError as exc:
        return Answer(source, None, f"cannot say: {printable(exc.message)}")
    except (OSError, ValueError, KeyError) as exc:
        return Answer(source, None, f"does not answer: {printable(_gone(exc))}")
    return Answer(source, gpus, "" if gpus is not None else "gave no answer that AirLab can read")


def _ask_once(place: Path) -> dict[str, Any]:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as link:
        link.settimeout(_GPUS_S)
        _connect(link, place)
        link.sendall(line_of({"id": 1, "op": "gpus"}))
        with link.makefile("rb") as answers:
            return dict(json.loads(answers.readline(LINE_BYTES)))


def _connect(link: socket.socket, place: Path) -> None:
    """Connect; to a launcher that was started a moment ago together with us, in a moment. Raises OSError."""
    ends_s = time.monotonic() + _COMING_UP_S
    while True:
        try:
            return link.connect(str(place))
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > ends_s:
                raise
            time.sleep(_KNOCK_S)


def _gone(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
