"""``airlab launcher``: the one process that may hold Docker's socket, and so be root on this host by that.

It takes a model's key, bounded numbers and a digest of the rest, over a unix socket, from one user. It reads the
manifest itself, makes from it what it would start, and refuses when that is not what the digest says, or when what was
decided for the start (GPUs, a NUMA node) is beyond what the manifest gives. No image, command, mount or environment
ever comes from whoever asks. What it started for a service that is not heard any more, it removes; and what a
predecessor of its own left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.devices.ask import printable
from app.devices.cpu import Node
from app.devices.probe import Host
from app.devices.profiles import ProfileChoice
from app.engines import placement
from app.engines.base import Launch, RunSpec
from app.engines.container import section_of, spec_digest
from app.engines.docker import DockerEngine
from app.engines.docker_running import DockerRunning
from app.engines.wire import (
    LEASE_S,
    LINE_BYTES,
    AskOf,
    AskPlain,
    AskStart,
    AskStop,
    cut_lines,
    error_line,
    exit_told,
    id_of,
    line_of,
    read_ask,
)
from app.errors import AirLabError, EngineError, LauncherRefusedError, SettingsError
from app.fleet.spec import model_specs
from app.manifest.engine_sections import DockerEngineSection
from app.manifest.load import read_manifest
from app.settings import Settings
from app.weights.inventory import HeaderCache
from app.weights.look import look_for_weights

log = logging.getLogger("airlab.launcher")

_MOST_CONNECTIONS = 8
_MOST_CONTAINERS = 64
_MOST_ASKED = 128
"""Requests of one connection that wait for their answer at the same time."""
_TICK_SHARE = 0.1
_GPU_CHARS = 8192

Asked = AskStart | AskStop | AskOf | AskPlain


class Recipes:
    """What the manifest, as it is now, would have started."""

    def __init__(self, settings: Settings, nodes: Callable[[], Sequence[Node]] = tuple) -> None:
        """The manifest is read at each request, and the host's NUMA nodes are looked at then."""
        self._settings, self._nodes = settings, nodes
        self._headers = HeaderCache()

    def launch_for(self, ask: AskStart) -> Launch:
        """The start that is asked for, made from the manifest and the numbers. Blocks for milliseconds.

        Raises:
            LauncherRefusedError: No such model, what the manifest says of it is not what the digest says, or what was
                decided for it is beyond what the manifest gives.
        """
        run, fit = self._run_for(ask), ask.fit
        try:
            placement.place(section_of(run), fit, self._nodes())
        except EngineError as exc:
            raise LauncherRefusedError(exc.message) from exc
        return Launch(ask.key, (), Path(f"{ask.instance}.sock"), {}, run, fit if ask.is_booked else None)

    def _run_for(self, ask: AskStart) -> RunSpec:
        try:
            runs = self._runs(ask.key)
        except AirLabError as exc:
            raise LauncherRefusedError(f"the launcher cannot read the manifest: {exc.message:.1000}") from exc
        if not runs:
            raise LauncherRefusedError(f"the manifest has no model {ask.key} that runs in a container")
        for run in runs:
            if spec_digest(run) == ask.digest:
                return replace(
                    run,
                    gpu_layers=ask.gpu_layers,
                    context_length=ask.context_length,
                    slots=ask.slots,
                    threads=ask.threads,
                )
        raise LauncherRefusedError(
            f"what the manifest says of {ask.key} is not what was asked for; if the manifest was changed just now, try "
            "again; else AirLab and its launcher do not see the same manifest and models"
        )

    def gpu_images(self) -> list[str]:
        """Images in which GPUs may be looked for: those that are to use them first. Empty where none is.

        Raises:
            LauncherRefusedError: The manifest cannot be read.
        """
        try:
            profiles = read_manifest(self._settings.manifest).manifest.profiles.values()
        except AirLabError as exc:
            raise LauncherRefusedError(f"the launcher cannot read the manifest: {exc.message:.1000}") from exc
        sections = [each.engine for each in profiles if isinstance(each.engine, DockerEngineSection)]
        if not any(section.wants_gpu for section in sections):
            return []
        return list(dict.fromkeys(each.image for each in sorted(sections, key=lambda each: not each.wants_gpu)))

    def _runs(self, key: str) -> list[RunSpec]:
        """How this model would run, under each profile of the manifest that is for containers."""
        manifest = read_manifest(self._settings.manifest).manifest
        weights = look_for_weights(manifest, self._settings, self._headers)
        # The numbers that depend on the host come with the request.
        host = Host(cores=1, can_offload=True)
        runs = []
        for name, section in manifest.profiles.items():
            if isinstance(section.engine, DockerEngineSection):
                choice = ProfileChoice(name, section, "asked for")
                spec = model_specs(manifest, choice, host, weights, forced_gpu_layers=None).get(key)
                if spec is not None and spec.problem is None:
                    runs.append(spec.run)
        return runs


class Launcher:
    """Containers for one service."""

    def __init__(self, engine: DockerEngine, recipes: Recipes, *, peer: int, lease_s: float = LEASE_S) -> None:
        """Nothing runs yet.

        Args:
            engine: Starts the containers.
            recipes: Says what they are.
            peer: The user id that may ask.
            lease_s: After so long without a word from the service, what was started for it is removed.
        """
        self._engine, self._recipes, self._peer, self._lease_s = engine, recipes, peer, lease_s
        self._running: dict[str, DockerRunning] = {}
        self._claimed: set[str] = set()
        """Instances that are being started."""
        self._starting: set[asyncio.Task[DockerRunning]] = set()
        self._heard_s = time.monotonic()
        self._asking_gpus = asyncio.Lock()
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, place: Path, stopped: asyncio.Event, *, ready: Callable[[], None] = lambda: None) -> None:
        """Answer on a socket at ``place`` until ``stopped``; then remove everything.

        Raises:
            SettingsError: The socket cannot be made.
        """
        await self._sweep_at_start()
        server = await self._listen(place)
        reaping = asyncio.create_task(self._reap())
        ready()
        try:
            await stopped.wait()
        finally:
            reaping.cancel()
            server.close()
            for connection in tuple(self._connections):
                connection.cancel()
            if self._starting:  # has an owner only once it has ended, which Docker's time limits see to
                await asyncio.wait(self._starting)
            await self._remove_all("the launcher stops")
            _make_way(place)

    async def _sweep_at_start(self) -> None:
        try:
            await self._engine.sweep()
        except EngineError as exc:
            log.warning("nothing was swept: %s; it is tried again before the first start", exc.message)

    async def _listen(self, place: Path) -> asyncio.Server:
        try:
            _make_way(place)
            server = await asyncio.start_unix_server(self._meet, str(place), limit=LINE_BYTES)
            # Who may ask is told by the kernel, for each connection.
            os.chmod(place, 0o600 if self._peer == os.getuid() else 0o666)  # noqa: PTH101 # at once, as any system call
        except OSError as exc:
            raise SettingsError(f"the launcher cannot listen at {place}: {exc.strerror}; set AIRLAB_LAUNCHER") from exc
        return server

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, uid = _peer_of(writer.get_extra_info("socket"))
        if uid != self._peer or len(self._connections) >= _MOST_CONNECTIONS:
            log.warning("refused a connection of process %d, user %d", pid, uid)
            writer.close()
            return
        log.info("process %d, user %d connected", pid, uid)
        answering = asyncio.create_task(self._answer_all(reader, writer))
        self._connections.add(answering)
        try:
            await asyncio.wait({answering})
        finally:
            answering.cancel()
            self._connections.discard(answering)
            writer.close()
            log.info("process %d left", pid)

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                if len(answering) >= _MOST_ASKED:
                    log.warning("more than %d requests wait at once: the connection is closed", _MOST_ASKED)
                    return
                task = asyncio.create_task(self._answer(line, writer))
                answering.add(task)
                task.add_done_callback(answering.discard)
        except (ValueError, OSError) as exc:  # a line without an end, or a connection that broke
            log.warning("the connection is closed: %s", exc)
        finally:
            # A start goes on: what nobody hears of is removed when the lease ends.
            for task in answering:
                task.cancel()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        number = id_of(line)
        try:
            ask = read_ask(line)
            self._heard_s = time.monotonic()
            told = line_of({"id": number, **await self._do(ask)})
        except EngineError as exc:
            log.warning("refused: %.500r: %s", line.decode(errors="replace").strip(), printable(exc.message))
            told = error_line(number, exc)
        except Exception as exc:
            log.exception("a request failed")
            told = error_line(number, EngineError(f"the launcher failed: {type(exc).__name__}"))
        with contextlib.suppress(OSError):
            writer.write(told)
            await writer.drain()

    async def _do(self, ask: Asked) -> dict[str, Any]:
        match ask:
            case AskStart():
                return await self._start(ask)
            case AskStop():
                log.info("stop %s", ask.instance)
                return {"gone": await self._stop(ask.instance, ask.grace_s)}
            case AskOf(op="wait"):
                return exit_told(await self._known(ask.instance).exited())
            case AskOf():
                running = self._known(ask.instance)
                return {"activity": running.activity(), "last_lines": cut_lines(running.last_lines())}
            case AskPlain(op="sweep"):
                await self._remove_all("the service asked for it")
                await self._engine.sweep()
            case AskPlain(op="gpus"):
                return {"nvidia_smi": (await self._gpus())[:_GPU_CHARS]}
        return {}

    async def _gpus(self) -> str:
        async with self._asking_gpus:
            return await self._engine.nvidia_smi(await asyncio.to_thread(self._recipes.gpu_images))

    async def _start(self, ask: AskStart) -> dict[str, Any]:
        if ask.instance in self._running or ask.instance in self._claimed:
            raise LauncherRefusedError(f"{ask.instance} runs already")
        if len(self._running) + len(self._claimed) >= _MOST_CONTAINERS:
            raise LauncherRefusedError(f"{_MOST_CONTAINERS} containers run already")
        self._claimed.add(ask.instance)
        starting = asyncio.create_task(self._start_claimed(ask))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        # One that is begun has an owner at its end, whoever still waits for it.
        running = await asyncio.shield(starting)
        return {"container": running.container, "socket": str(running.socket), "image": running.image_id}

    async def _start_claimed(self, ask: AskStart) -> DockerRunning:
        try:
            launch = await asyncio.to_thread(self._recipes.launch_for, ask)
            running = await self._engine.start(launch)
            self._running[ask.instance] = running
        finally:
            self._claimed.discard(ask.instance)
        log.info("started %s for %s: container %s, %s", ask.instance, ask.key, running.container, running.image_id)
        return running

    def _known(self, instance: str) -> DockerRunning:
        running = self._running.get(instance)
        if running is None:
            raise LauncherRefusedError(f"the launcher runs no {instance}")
        return running

    async def _stop(self, instance: str, grace_s: float) -> bool:
        running = self._running.get(instance)
        if running is None:
            return instance not in self._claimed
        gone = await running.stop(grace_s=grace_s)
        if gone:
            self._running.pop(instance, None)
        return gone

    async def _reap(self) -> None:
        """Remove what was started for a service that is not heard any more."""
        while True:
            await asyncio.sleep(self._lease_s * _TICK_SHARE)
            if self._running and time.monotonic() - self._heard_s > self._lease_s:
                await self._remove_all(f"the service was not heard for {self._lease_s:.0f} s")

    async def _remove_all(self, why: str) -> None:
        if self._running:
            log.warning("%s: removing %s", why, ", ".join(self._running))
        await asyncio.gather(*(self._stop(instance, 1.0) for instance in tuple(self._running)))


def _make_way(place: Path) -> None:
    """Make the folder of the socket, and nothing where it is to be."""
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    place.unlink(missing_ok=True)


def _peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process and user id of who connected, as the kernel knows them."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", told)
    return pid, uid


async def run(engine: DockerEngine, settings: Settings, place: Path, *, peer: int) -> None:
    """Serve until a signal to stop. Raises SettingsError."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    launcher = Launcher(engine, Recipes(settings, engine.nodes), peer=peer)
    await launcher.serve(place, stopped, ready=lambda: print(f"The launcher listens at {place}", flush=True))
    engine.close()
