"""Whatever is asked of the fleet in whatever order, and however its engines go, its promises hold after each step."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.engines.base import WeightsId
from app.errors import AirLabError, UnavailableError
from app.fleet.estimate import RAM
from app.fleet.evict import rivals_in
from app.fleet.fleet import Fleet
from app.fleet.instance import Instance
from app.fleet.lease import Waiting
from app.fleet.meter import Memory
from app.fleet.progress import Stopwatch
from app.fleet.spec import ModelSpec
from app.fleet.states import State, Why
from app.journal import Journal
from app.units import MIB
from tests.fakes import DAY_S, FakeEngine, FakeMeter, FakeRunning, Manner, model_spec, run_spec
from tests.fleet.virtual import virtual_time

OUT = {State.DRAINING, State.STOPPING, State.STUCK}
KEYS = st.sampled_from("abc")
MANNERS = st.builds(
    Manner,
    load_s=st.sampled_from([0.0, 0.5, 30.0]),
    moves=st.sampled_from([True, True, False]),
    stop_s=st.sampled_from([0.0, 0.3, 3.0]),
    survives_stops=st.sampled_from([0, 0, 0, 1]),
    refused=st.sampled_from([None, None, None, "no such binary"]),
    exit_code=st.sampled_from([None, None, None, 1, -9]),
    last_lines=st.sampled_from([(), ("alloc_buffer: failed to allocate buffer",)]),
)
HELD_S = st.sampled_from([0.0, 0.1, 3.0, 40.0])
WAIT_S = st.sampled_from([0.0, 1.0, 15.0, DAY_S])
KEEP_ALIVE_S = st.sampled_from([None, None, 0.0, 5.0, math.inf])
PAUSE_S = st.sampled_from([0.0, 0.01, 0.4, 2.1, 12.0, 70.0, 400.0])
SIZES_MIB = st.sampled_from([100, 300, 600, 2000])
"""Of 1000: several small ones fit together, two large ones do not, the last one never does."""
HOW = st.tuples(
    st.sampled_from(["old", "new"]),
    st.sampled_from([1, 2]),
    st.sampled_from([None, 20.0]),
    st.booleans(),
    SIZES_MIB,
    st.sampled_from([False, False, False, True]),
    st.sampled_from(["", "", "a", "b"]),
)
How = tuple[str, int, float | None, bool, int, bool, str]
TOTAL_BYTES = 1000 * MIB
ALL_MODELS = st.fixed_dictionaries(dict.fromkeys("abc", HOW))
MODELS = ALL_MODELS | st.dictionaries(KEYS, HOW)


class FleetMachine(RuleBasedStateMachine):
    """One fleet of three models at most, its engines in memory, on stepped time; with a look at memory or without."""

    @initialize(max_loaded=st.sampled_from([1, 2, None]), models=ALL_MODELS, looks=st.booleans())
    def begin(self, max_loaded: int | None, models: dict[str, How], looks: bool) -> None:
        self._patch = pytest.MonkeyPatch()
        self._stack = contextlib.ExitStack()
        self.engine = FakeEngine()
        self._patch.setattr("app.fleet.instance.Upstream", self.engine.upstream)
        self.loop = self._stack.enter_context(virtual_time())
        self.wants, self.max_loaded = max_loaded, max_loaded or (32 if looks else 1)
        self.meter = FakeMeter(self.engine, TOTAL_BYTES, self._took)
        self.sizes: dict[str, int] = {}
        memory = Memory(self.meter) if looks else None
        self.fleet = Fleet(self.engine, Path("/tmp/airlab-test"), Journal(), memory=memory)
        self.looks = looks
        self.callers: list[asyncio.Task[None]] = []
        self.edit(models)

    # What callers do.

    @rule(key=KEYS, held_s=HELD_S, wait_s=WAIT_S, keep_alive_s=KEEP_ALIVE_S, is_answered=st.booleans())
    def ask(self, key: str, held_s: float, wait_s: float, keep_alive_s: float | None, is_answered: bool) -> None:
        self._call(self._use(key, held_s, wait_s, keep_alive_s, is_answered=is_answered))

    @rule(key=KEYS, beside=st.booleans(), keep_alive_s=KEEP_ALIVE_S)
    def load(self, key: str, beside: bool, keep_alive_s: float | None) -> None:
        self._call(self.fleet.load(key, beside=beside, keep_alive_s=keep_alive_s))

    @rule(key=KEYS)
    def unload(self, key: str) -> None:
        self._call(self.fleet.unload(key))

    @rule(number=st.integers(0, 100), turns=st.integers(0, 4))
    def leave(self, number: int, turns: int) -> None:
        """A caller leaves, wherever it is; some turns of the loop later, to meet grants on their way."""
        for _ in range(turns):
            self._run(asyncio.sleep(0))
        if self.callers:
            self.callers[number % len(self.callers)].cancel()

    @rule(models=MODELS)
    def edit(self, models: dict[str, How]) -> None:
        wanted = {key: self._spec(key, how) for key, how in models.items()}

        async def want() -> None:
            self.fleet.want(wanted, max_loaded=self.wants)

        self._run(want())

    # What the world does.

    @rule(seconds=PAUSE_S)
    def wait(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    @rule(manner=MANNERS)
    def change_manners(self, manner: Manner) -> None:
        self.engine.default = manner

    @rule(number=st.integers(0, 100), code=st.sampled_from([0, 1, -9]))
    def crash(self, number: int, code: int) -> None:
        async def end() -> None:
            if alive := self.engine.alive():
                alive[number % len(alive)].exit(code)

        self._run(end())

    @rule(mib=st.sampled_from([0, 0, 200, 500, 950]))
    def others_take_memory(self, mib: int) -> None:
        self.meter.others_bytes = mib * MIB

    @invariant()
    def promises(self) -> None:
        if not hasattr(self, "fleet"):
            return
        instances = list(self.fleet._reconciler.instances.values())
        current = [instance for instance in instances if instance.state not in OUT]
        assert len(instances) <= self.max_loaded
        assert len(self.engine.alive()) <= self.max_loaded
        assert len({instance.spec.key for instance in current}) == len(current), "two of one model are current"
        for instance in current:
            rivals = rivals_in(self.fleet._reconciler._models).get(instance.spec.key, frozenset())
            assert not rivals & {other.spec.key for other in current}, "two run that may not run together"
        for instance in instances:
            assert 0 <= instance.leases <= instance.slots
            self._is_stopped_for_a_cause(instance)
            self._is_not_waited_for_in_vain(instance)
        for key, instance in self.fleet._reconciler.instances.ready.items():
            assert instance in instances, f"what serves {key} is gone"
            assert instance.state is State.READY
        self._books_balance(instances)

    def _books_balance(self, instances: list[Instance]) -> None:
        """What is booked is never more than there is, and whatever lives is booked."""
        if not self.looks:
            return
        takes = {i.id: i.fitted.estimate.takes[RAM] for i in instances if i.fitted is not None}
        assert len(takes) == len(instances), "something was started without a look at memory"
        assert all(size > 0 for size in takes.values())
        assert sum(takes.values()) <= TOTAL_BYTES
        booked = {i.pid for i in instances}
        assert {running.pid for running in self.engine.alive()} <= booked | {None}

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        try:
            self._run(self._end())
            assert self.engine.alive() == []
            assert all(task.done() for task in self.callers), "somebody waits for ever"
            assert not self.fleet._reconciler._queue
            # An exception that is none of ours shows here.
            for task in self.callers:
                if not task.cancelled():
                    task.result()
        finally:
            self._stack.close()
            self._patch.undo()

    async def _end(self) -> None:
        """Nobody asks for more: everybody has an answer once the longest of everything has passed."""
        if self.callers:
            await asyncio.wait(self.callers, timeout=2 * DAY_S)
        assert await self.fleet.shut_down(drain_s=20)

    async def _use(
        self, key: str, held_s: float, wait_s: float, keep_alive_s: float | None, *, is_answered: bool
    ) -> None:
        deadline_s = time.monotonic() + wait_s
        async with self.fleet.lease(key, deadline_s=deadline_s, waiting=_told, keep_alive_s=keep_alive_s) as lease:
            assert lease.spec.key == key
            waited = Stopwatch()
            lease.upstream.progress.begin(waited)
            try:
                await asyncio.sleep(held_s)
                if is_answered:
                    lease.upstream.progress.came(waited)
            finally:
                lease.upstream.progress.end(waited)

    def _call(self, asking: object) -> None:
        async def caller() -> None:
            try:
                await asking  # type: ignore[misc] # a coroutine
            except AirLabError as exc:
                stuck = any(i.state is State.STUCK for i in self.fleet._reconciler.instances.values())
                unloaded = (
                    "cannot be loaded beside" in exc.message
                    or "was unloaded before it was ready" in exc.message
                    or "pinned" in exc.message
                )
                stuck = stuck or "cannot be stopped" in exc.message
                if type(exc) is UnavailableError and not stuck and not unloaded:
                    raise AssertionError("there was a place, or one to be made") from exc

        async def begin() -> None:
            self.callers.append(asyncio.create_task(caller()))

        self._run(begin())

    def _run(self, step: object) -> None:
        self.loop.run_until_complete(step)  # type: ignore[arg-type] # a coroutine

    @staticmethod
    def _spec(key: str, how: How) -> ModelSpec:
        file, slots, idle_timeout, preload, mib, pin, rival = how
        weights = WeightsId(Path(f"/models/{key}-{file}.gguf"), mib * MIB, 1)
        run = run_spec(slots=slots, weights=weights, gpu_layers=0)
        spec = model_spec(key, run, idle_timeout=idle_timeout, preload=preload, pin=pin, not_with=[*rival])
        return replace(spec, weights_bytes=mib * MIB)

    def _took(self, key: str) -> int:
        """What the newest engine of this key has: the size of the file that it was started with."""
        found = [i for i in self.fleet._reconciler.instances.values() if i.spec.key == key]
        return max((i.wanted.weights.size_bytes for i in found if i.wanted.weights), default=0)

    def _is_stopped_for_a_cause(self, instance: Instance) -> None:
        """A busy engine is stopped after a fault of its own only; for everything else it drains first."""
        if instance.state is State.STOPPING and instance.leases:
            assert instance.why is Why.FAULT

    def _is_not_waited_for_in_vain(self, instance: Instance) -> None:
        """However many come and leave, one that hangs serves no longer than the watch needs to see it."""
        limits, serves = self.fleet.limits, instance.state in {State.READY, State.DRAINING}
        if serves and isinstance(instance.running, FakeRunning) and not instance.running.manner.moves:
            assert instance.upstream.progress.still_s(time.monotonic()) <= limits.hung_s + limits.hung_s / 4


def _told(waiting: Waiting) -> None:
    assert waiting.ahead >= 0
    assert waiting.eta_s is None or 0 <= waiting.eta_s < math.inf


STEPS = int(os.environ.get("AIRLAB_FUZZ_FLEET_STEPS", "2000"))
"""``make fuzz-fleet`` takes five times as many."""
FleetMachine.TestCase.settings = settings(
    max_examples=max(1, STEPS // 25), stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_fleet_keeps_its_promises = FleetMachine.TestCase
