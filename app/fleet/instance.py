"""One llama-server from start to verified gone: readiness by progress, a watch over it, its end.

Reports what happened; what follows from it is the fleet's business. ``state``, ``leases`` and ``why`` are written by
the fleet alone.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.engines.base import Engine, Exit, Launch, Running
from app.engines.command import as_written
from app.errors import AirLabError, EngineAwayError, EngineError, UpstreamError, UpstreamStalledError
from app.fleet.fit import Fitted
from app.fleet.progress import Watch
from app.fleet.records import Fault
from app.fleet.spec import ModelSpec
from app.fleet.states import InstanceFacts, Limits, State, Why
from app.fleet.upstream import Upstream
from app.units import KIB

log = logging.getLogger("airlab")

_POLL_SHARE, _POLL_MIN_S, _POLL_MAX_S = 0.05, 0.02, 0.1
"""/health is asked after this share of the time so far: soon after a short load, seldom enough during a long one."""
_WORKING_SHARE, _WORKING_BYTES_S = 0.02, 64 * KIB
"""A load that uses less of a processor and of memory does nothing: to be watched takes it some."""
_WATCH_S = 5.0
_HEALTH_S = 2.0
_SHOWN_LINES = 5
_OOM_KILLS = 2
"""Memory that was too small twice is too small."""
_CANNOT_PASS = re.compile(
    r"invalid argument|unknown argument|unrecognized argument|invalid magic|not a gguf|no such file|wrong shape"
    r"|unknown model architecture|error while loading shared libraries"
    r"|mismatch between text model|failed to load (?:multimodal|draft) model",
    re.IGNORECASE,
)
"""Words of llama-server, its loader and the embedded engine for what the same start will say again."""
_NO_SPECULATION = re.compile(
    r"failed to initialize speculative decoding|speculative decoding not supported", re.IGNORECASE
)
"""Words of a llama-server that serves all the same, without the draft model that it was given."""
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate|unable to allocate|cannot allocate memory|out of memory|bad_alloc|cudaMalloc failed"
    r"|ErrorOutOf(?:Host|Device)Memory",
    re.IGNORECASE,
)
_OF_A_GPU = re.compile(r"cuda|rocm|hip|vulkan|metal|sycl|device", re.IGNORECASE)
"""Words of llama-server's backends; the second ones tell a GPU's memory from the host's."""


@dataclass(frozen=True, slots=True)
class BecameReady:
    """It answers."""

    took_s: float


@dataclass(frozen=True, slots=True)
class Broke:
    """It ended by itself, never came up, or hangs."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of it is left."""


@dataclass(frozen=True, slots=True)
class Survived:
    """It could not be ended; tried again by itself."""


Report = BecameReady | Broke | Gone | Survived


class Instance:
    """One llama-server."""

    def __init__(
        self,
        number: int,
        spec: ModelSpec,
        engine: Engine,
        launch: Launch,
        limits: Limits,
        report: Callable[[Instance, Report], None],
    ) -> None:
        """Begin to start it."""
        self.id = number
        self.spec = spec
        """As it was started, with numbers for all that the manifest left open."""
        self.wanted = spec.run
        """As the manifest had it; an edit of that is what makes it leave."""
        self.fitted: Fitted | None = None
        """How it was made to fit, where memory was looked at."""
        self.load_s: float | None = None
        self.keep_alive_s: float | None = None
        """What the last request that spoke of it set in place of the manifest's idle_timeout."""
        self.measured_bytes: int | None = None
        """What it kept in memory after its first request."""
        self.was_used = False
        self.state = State.STARTING
        self.why: Why | None = None
        self.fault: Fault | None = None
        self.leases = 0
        self.since_s = self.last_used_s = time.monotonic()
        self.upstream = Upstream(launch.socket)
        self.ended = asyncio.Event()
        """Set when its process is known to have ended, or it was told to stop."""
        self.gone = asyncio.Event()
        """Set when nothing of it is left."""
        self.settled = asyncio.Event()
        """Set when its way out has an end: nothing of it is left, it was called back, or it cannot be stopped."""
        self._limits = limits
        self._report = report
        self._starting = asyncio.create_task(engine.start(launch))
        self._watching = asyncio.create_task(self._watch())
        self._stopping: asyncio.Task[None] | None = None

    @property
    def facts(self) -> InstanceFacts:
        """What a decision may look at."""
        run = self.spec.run
        return InstanceFacts(
            *(self.id, self.spec.key, self.wanted, self.state, self.leases, self.last_used_s, self.why),
            slots=self.slots,
            load_s=self.load_s,
            threads=as_written(run).busy_threads,
            since_s=self.since_s,
            keep_alive_s=self.keep_alive_s,
        )

    @property
    def slots(self) -> int:
        """Requests that it serves at once."""
        return self.spec.run.slots or 1

    @property
    def running(self) -> Running | None:
        """The process, once there is one."""
        if self._starting.done() and not self._starting.cancelled() and self._starting.exception() is None:
            return self._starting.result()
        return None

    @property
    def pid(self) -> int | None:
        """Its process id on this host, once it has one."""
        return self.running.pid if self.running else None

    @property
    def container(self) -> str | None:
        """The id of its container, where it runs in one."""
        return self.running.container if self.running else None

    @property
    def draft_is_unused(self) -> bool:
        """Whether llama-server serves without the draft model that it was given."""
        lines = self.running.last_lines() if self.running and self.wanted.draft_model is not None else ()
        return any(map(_NO_SPECULATION.search, lines))

    @property
    def where(self) -> str:
        """Its process or container, in words."""
        running = self.running
        if running is None:
            return "not started"
        return f"pid {running.pid}" if running.container is None else f"container {running.container}"

    def stop(self, because: AirLabError) -> None:
        """Break off what is open with ``because``, end the process, report when it is verified gone."""
        if self._stopping is None:
            # At once: a watch that wakes up in this very turn of the loop must not report a stopping engine as ready.
            self._watching.cancel()
            self._stopping = asyncio.create_task(self._stop(because))

    async def _watch(self) -> None:
        try:
            running = await asyncio.shield(self._starting)
            self.upstream.socket = running.socket
            exited = asyncio.create_task(running.exited())
            try:
                self._report(self, BecameReady(await self._until_ready(running, exited)))
                await self._until_broken(running, exited)
            finally:
                exited.cancel()
        except EngineError as exc:
            # Who is away for a moment is asked again, as after a crash.
            self._report(self, Broke(Fault(exc.message, is_verdict=not isinstance(exc, EngineAwayError))))
        except _BrokenError as exc:
            self._report(self, Broke(exc.fault))
        except Exception as exc:
            # Unforeseen, so logged whole; silent, it would hold this model's place for ever.
            log.exception("the watch over %s failed", self.spec.key)
            self._report(self, Broke(Fault(f"AirLab failed at starting or watching it: {exc}", is_verdict=False)))

    async def _until_ready(self, running: Running, exited: asyncio.Task[Exit]) -> float:
        """Wait for health 200 as long as anything moves; the seconds it took."""
        begun_s = moved_s = time.monotonic()
        seen = running.activity()
        while not await self.upstream.healthy(timeout_s=_HEALTH_S):
            now_s = time.monotonic()
            poll_s = min(max(_POLL_MIN_S, _POLL_SHARE * (now_s - begun_s)), _POLL_MAX_S)
            if await self._ended_within(exited, poll_s):
                raise _BrokenError(_fault_of_exit(exited.result(), loading=True))
            now = running.activity()
            if _moved(seen, now, seconds=now_s - moved_s):
                seen, moved_s = now, now_s
            elif now_s - moved_s > self._limits.load_stall_s:
                what = f"nothing moved for {self._limits.load_stall_s:.0f} s while it loaded"
                raise _BrokenError(Fault(with_log(what, running.last_lines()), is_verdict=False, stalled_load=True))
            if now_s - begun_s > self._limits.load_total_s:
                what = f"it was not ready after {self._limits.load_total_s / 60:.0f} minutes"
                raise _BrokenError(Fault(with_log(what, running.last_lines()), is_verdict=True))
        return time.monotonic() - begun_s

    async def _until_broken(self, running: Running, exited: asyncio.Task[Exit]) -> None:
        """Watch it; raises when it ends, or hangs under load however green its /health is."""
        tick_s = min(_WATCH_S, self._limits.hung_s / 4)
        watch = Watch(self.upstream.progress, self._limits, cpu_s=_cpu_s(running) or 0.0)
        while not await self._ended_within(exited, tick_s):
            if (hung_for_s := watch.hung_for_s(cpu_s=_cpu_s(running))) is not None:
                what = with_log(f"it had work and sent nothing for {hung_for_s:.0f} s", running.last_lines())
                raise _BrokenError(Fault(what, is_verdict=False, stalled=True))
        raise _BrokenError(_fault_of_exit(exited.result(), loading=False))

    async def _ended_within(self, exited: asyncio.Task[Exit], seconds: float) -> bool:
        await asyncio.wait({exited}, timeout=seconds)
        if exited.done():
            self.ended.set()
        return exited.done()

    async def _stop(self, because: AirLabError) -> None:
        self.ended.set()
        await asyncio.wait({self._starting, self._watching})
        # llama-server ignores SIGTERM while a request is open: connections go first.
        await self.upstream.close(because)
        running = self.running
        while running is not None and not await self._ended_by_us(running):
            self._report(self, Survived())
            await asyncio.sleep(self._limits.stuck_look_s)
        self.gone.set()
        self.settled.set()
        self._report(self, Gone())

    async def _ended_by_us(self, running: Running) -> bool:
        try:
            return await running.stop(grace_s=self._limits.stop_grace_s)
        except Exception:
            log.exception("stopping %s failed", self.spec.key)
            return False  # as one that survived: said so, and tried again


class _BrokenError(Exception):
    """Carries a fault to the end of the watch."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def _moved(before: tuple[float, ...] | None, now: tuple[float, ...] | None, *, seconds: float) -> bool:
    """Whether a load came on, from one activity to another so much later."""
    if before is None or now is None:
        return before != now
    (cpu_before_s, *bytes_before), (cpu_now_s, *bytes_now) = before, now
    span_s = max(seconds, 1.0)
    more_bytes = max((b - a for a, b in zip(bytes_before, bytes_now, strict=True)), default=0)
    return cpu_now_s - cpu_before_s > _WORKING_SHARE * span_s or more_bytes > _WORKING_BYTES_S * span_s


def _cpu_s(running: Running) -> float | None:
    """Seconds of processors that it used so far; None where nobody can say."""
    activity = running.activity()
    return activity[0] if activity else None


def _fault_of_exit(end: Exit, *, loading: bool) -> Fault:
    """An exit code while loading is llama-server's verdict; a signal, or an end while it served, is an accident."""
    when = "while it loaded" if loading else "while it served"
    if end.out_of_memory:
        what = f"llama-server was killed {when} (oom_killed, exit code 137): the memory that it may use was used up"
        ran_out: Literal["GPU", "host"] | None = "host" if loading else None
        return Fault(with_log(what, end.last_lines), is_verdict=False, most=_OOM_KILLS, ran_out=ran_out)
    short = [line for line in end.last_lines if _OUT_OF_MEMORY.search(line)]
    if loading and short:
        ran_out = "GPU" if any(_OF_A_GPU.search(line) for line in short) else "host"
        what = f"llama-server ran out of the {ran_out}'s memory while it loaded"
        return Fault(with_log(what, end.last_lines), is_verdict=False, most=_OOM_KILLS, ran_out=ran_out)
    how = f"ended with exit code {end.code}" if end.code >= 0 else f"was killed by signal {-end.code}"
    can_pass = not any(_CANNOT_PASS.search(line) for line in end.last_lines)
    message = with_log(f"llama-server {how} {when}", end.last_lines)
    return Fault(message, is_verdict=loading and end.code >= 0, can_pass=can_pass)


def with_log(what: str, lines: tuple[str, ...]) -> str:
    """A sentence with the last lines of the log behind it."""
    shown = [line for line in lines if line.strip()][-_SHOWN_LINES:]
    return f"{what}; its last lines: {' | '.join(shown)}" if shown else what


def broken_by_stop(instance: Instance) -> UpstreamError:
    """What a request gets when its instance is stopped for a fault."""
    message = instance.fault.message if instance.fault else "it was stopped"
    error = UpstreamStalledError if instance.fault and instance.fault.stalled else UpstreamError
    return error(f"the engine of {instance.spec.key} broke off: {message}")
