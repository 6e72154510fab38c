"""The fleet's surroundings in memory: an engine whose llama-servers load, break and refuse to die as told.

Nothing here starts a process or opens a socket; what only a real process shows is for ``fake_llama_server.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.devices.resident import Resident
from app.engines.base import Exit, Launch, RunSpec, WeightsId
from app.errors import AirLabError, EngineError
from app.fleet.estimate import RAM
from app.fleet.memory import Reading
from app.fleet.progress import Progress
from app.fleet.spec import ModelSpec
from app.manifest.engine_sections import NativeEngineSection
from app.manifest.schema import ModelSection
from app.weights.gguf import GgufFacts

DAY_S = 86_400.0


def run_spec(file: str = "m.gguf", *, slots: int = 1, **more: Any) -> RunSpec:
    """A run of this file; another file, or any other difference, is another run."""
    given: dict[str, Any] = {
        "engine": NativeEngineSection(),
        "kinds": frozenset({"chat"}),
        "weights": WeightsId(Path("/models") / file, 1000, 1),
        "context_length": 4096,
        "slots": slots,
        "gpu_layers": None,
        "threads": 1,
        "cache_type": None,
    }
    return RunSpec(**given | more)


def model_spec(key: str, run: RunSpec | None = None, **section: Any) -> ModelSpec:
    """A model as it should be; ``section`` holds keys of its section in the manifest."""
    described = ModelSection(filename=f"{key}.gguf", **section)
    return ModelSpec(key, run or run_spec(f"{key}.gguf"), described, f"models/{key}.gguf", tool_mode="auto")


@dataclass
class Manner:
    """How the next llama-servers go."""

    load_s: float = 0.0
    """0 for ready at once; infinite for never."""
    moves: bool = True
    """Whether it shows progress while it loads."""
    stop_s: float = 0.0
    survives_stops: int = 0
    """So many attempts to end it fail."""
    refused: str | None = None
    """Starting it fails with this sentence."""
    exit_code: int | None = None
    """It ends with this code in place of becoming ready."""
    last_lines: tuple[str, ...] = ()


@dataclass
class FakeRunning:
    """A llama-server in memory; fulfils ``Running``."""

    launch: Launch
    manner: Manner
    pid: int | None
    ready: bool = False
    container: str | None = None
    fallback_because: str | None = None
    closed_because: AirLabError | None = None
    end: asyncio.Future[Exit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _ticks: int = 0

    @property
    def socket(self) -> Path:
        return self.launch.socket

    def activity(self) -> tuple[float, ...] | None:
        self._ticks += self.manner.moves
        return (float(self._ticks),)

    def last_lines(self) -> tuple[str, ...]:
        return self.manner.last_lines

    async def exited(self) -> Exit:
        return await asyncio.shield(self.end)

    async def stop(self, *, grace_s: float) -> bool:
        # As the real one does: to its end, whatever becomes of the caller.
        return await asyncio.shield(asyncio.ensure_future(self._stop(grace_s)))

    async def _stop(self, grace_s: float) -> bool:
        await asyncio.sleep(min(self.manner.stop_s, grace_s))
        if self.manner.survives_stops > 0:
            self.manner.survives_stops -= 1
            return False
        self.exit(-15)
        return True

    def exit(self, code: int) -> None:
        """End it, as a crash does."""
        self.ready = False
        if not self.end.done():
            self.end.set_result(Exit(code, self.last_lines()))


class FakeEngine:
    """An engine in memory; fulfils ``Engine``. ``manners`` says by key how its servers go, ``default`` for the rest."""

    def __init__(self) -> None:
        self.default = Manner()
        self.manners: dict[str, Manner] = {}
        self.started: list[FakeRunning] = []
        self._pids = itertools.count(100)

    def program(self) -> tuple[str, ...]:
        return ("/usr/bin/llama-server",)

    async def start(self, launch: Launch) -> FakeRunning:
        manner = replace(self.manners.get(launch.key, self.default))
        await asyncio.sleep(0)
        if manner.refused is not None:
            raise EngineError(manner.refused)
        running = FakeRunning(launch, manner, next(self._pids))
        self.started.append(running)
        if manner.load_s != float("inf"):
            asyncio.get_running_loop().call_later(manner.load_s, self._loaded, running)
        return running

    async def sweep(self) -> None:
        """There is nothing to clear."""

    def alive(self, key: str | None = None) -> list[FakeRunning]:
        """Those that have not ended, of this key or of all."""
        return [r for r in self.started if not r.end.done() and key in {None, r.launch.key}]

    def starts(self) -> list[str]:
        """The keys of all that was started, in order."""
        return [running.launch.key for running in self.started]

    def upstream(self, socket: Path) -> FakeUpstream:
        """The way to the server on this socket; takes the place of ``app.fleet.upstream.Upstream``."""
        return FakeUpstream(self, socket)

    def _loaded(self, running: FakeRunning) -> None:
        if running.end.done():
            return
        if running.manner.exit_code is None:
            running.ready = True
        else:
            running.exit(running.manner.exit_code)


class FakeUpstream:
    """What the fleet asks of an upstream."""

    def __init__(self, engine: FakeEngine, socket: Path) -> None:
        self.progress = Progress()
        self.closed_because: AirLabError | None = None
        self._engine, self.socket = engine, socket

    async def healthy(self, *, timeout_s: float) -> bool:
        await asyncio.sleep(0)
        assert timeout_s > 0
        return any(running.socket == self.socket and running.ready for running in self._engine.started)

    async def close(self, because: AirLabError) -> None:
        await asyncio.sleep(0)
        self.closed_because = because


class FakeMeter:
    """A host's memory: what there is, less what the engines alive and others have. Fulfils ``Meter``."""

    def __init__(self, engine: FakeEngine, total_bytes: int, takes: Callable[[str], int]) -> None:
        """``takes`` says what an engine of a key has, from its start to its end."""
        self.others_bytes = 0
        self.reads = 0
        self.total_bytes = total_bytes
        self._engine, self._takes = engine, takes

    async def read(self, pids: Mapping[int, int], *, by_node: bool) -> Reading:
        at_s = time.monotonic()
        await asyncio.sleep(0)
        self.reads += 1
        alive = {running.pid: self._takes(running.launch.key) for running in self._engine.alive()}
        free = self.total_bytes - sum(alive.values()) - self.others_bytes
        residents = {number: Resident(alive[pid], alive[pid]) for number, pid in pids.items() if pid in alive}
        return Reading(at_s, {RAM: max(0, free)}, residents)

    async def headers(self, files: Collection[WeightsId]) -> Mapping[WeightsId, GgufFacts]:
        await asyncio.sleep(0)
        return {}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """An engine in memory, with the upstreams of every instance in memory too."""
    fake = FakeEngine()
    monkeypatch.setattr("app.fleet.instance.Upstream", fake.upstream)
    return fake
