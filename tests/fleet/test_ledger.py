"""The fleet and its view of memory, on stepped time: read anew when something went, and never in the way of a start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from app.engines.base import WeightsId
from app.errors import DoesNotFitError
from app.fleet.fleet import Fleet
from app.fleet.memory import Budget, Reading
from app.fleet.meter import Memory
from app.fleet.spec import ModelSpec
from app.fleet.states import State
from app.journal import Journal
from app.units import MIB
from app.weights.gguf import GgufFacts
from tests.fakes import DAY_S, FakeEngine, FakeMeter, model_spec, run_spec
from tests.fleet.virtual import virtual_time
from tests.support.models import SMALL, facts_of

MODEL_MIB = 400
Scene = Callable[[Fleet, FakeMeter], Awaitable[None]]


def spec(key: str, mib: int = MODEL_MIB) -> ModelSpec:
    run = run_spec(gpu_layers=0, weights=WeightsId(Path(f"/models/{key}.gguf"), mib * MIB, 1))
    return replace(model_spec(key, run), weights_bytes=mib * MIB)


def play(engine: FakeEngine, scene: Scene, *, meter: FakeMeter | None = None, file: Path | None = None) -> None:
    """A fleet of a, b and c on a host of 1000 MiB, as many loaded as fit."""

    async def whole() -> None:
        used = meter or FakeMeter(engine, 1000 * MIB, lambda _: MODEL_MIB * MIB)
        fleet = Fleet(engine, Path("/tmp/airlab-test"), Journal(), memory=Memory(used, file=file))
        fleet.want({key: spec(key) for key in "abc"}, max_loaded=None)
        async with asyncio.timeout(10_000):
            await scene(fleet, used)
            assert await fleet.shut_down(drain_s=1)
        assert engine.alive() == []

    with virtual_time() as loop:
        loop.run_until_complete(whole())


async def use(fleet: Fleet, key: str) -> None:
    async with fleet.lease(key, deadline_s=time.monotonic() + DAY_S):
        pass


def states(fleet: Fleet) -> dict[str, State]:
    return {key: status.state for key, status in fleet.status().items()}


def test_as_many_are_loaded_as_fit_and_then_the_longest_idle_goes(engine: FakeEngine) -> None:
    async def scene(fleet: Fleet, _: FakeMeter) -> None:
        await use(fleet, "a")
        await asyncio.sleep(1)
        await use(fleet, "b")
        assert states(fleet) == {"a": State.READY, "b": State.READY, "c": State.STOPPED}
        await asyncio.sleep(5)
        await use(fleet, "c")
        assert states(fleet) == {"a": State.STOPPED, "b": State.READY, "c": State.READY}

    play(engine, scene)


def test_memory_that_comes_back_late_is_waited_for(engine: FakeEngine) -> None:
    """A driver may give back a second after the process is gone; that is no reason to refuse what would fit."""

    async def scene(fleet: Fleet, meter: FakeMeter) -> None:
        await use(fleet, "a")
        await fleet.unload("a")
        meter.others_bytes = 900 * MIB
        asyncio.get_running_loop().call_later(1.0, setattr, meter, "others_bytes", 0)
        begun_s = time.monotonic()
        await use(fleet, "b")
        assert 1.0 <= time.monotonic() - begun_s < 2.0

    play(engine, scene)


def test_memory_that_does_not_come_back_ends_in_the_sum(engine: FakeEngine) -> None:
    async def scene(fleet: Fleet, meter: FakeMeter) -> None:
        await use(fleet, "a")
        await fleet.unload("a")
        meter.others_bytes = 900 * MIB
        with pytest.raises(DoesNotFitError, match=r"100\.0 MiB is there for it"):
            await use(fleet, "b")

    play(engine, scene)


def test_what_others_take_meanwhile_is_seen(engine: FakeEngine) -> None:
    async def scene(fleet: Fleet, meter: FakeMeter) -> None:
        await use(fleet, "a")
        meter.others_bytes = 300 * MIB
        await asyncio.sleep(10)
        await use(fleet, "b")
        assert states(fleet)["a"] is State.STOPPED

    play(engine, scene)


def test_idle_fleet_reads_no_memory(engine: FakeEngine) -> None:
    async def scene(fleet: Fleet, meter: FakeMeter) -> None:
        await use(fleet, "a")
        await asyncio.sleep(1)
        before = meter.reads
        for _ in range(50):
            await use(fleet, "a")
            await asyncio.sleep(60)
        assert meter.reads == before

    play(engine, scene)


def test_what_a_model_took_is_measured_after_its_first_request(engine: FakeEngine, tmp_path: Path) -> None:
    class Knowing(FakeMeter):
        async def headers(self, files: Collection[WeightsId]) -> Mapping[WeightsId, GgufFacts]:
            await asyncio.sleep(0)
            return dict.fromkeys(files, SMALL)

    async def scene(fleet: Fleet, _: FakeMeter) -> None:
        await use(fleet, "a")
        await asyncio.sleep(0.01)
        assert fleet.status()["a"].measured_bytes == MODEL_MIB * MIB

    # Written in the loop's own thread: on stepped time nobody waits for another one.
    async def here(work: Callable[..., None], *args: object) -> None:
        work(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.fleet.ledger.asyncio.to_thread", here)
        meter = Knowing(engine, 1000 * MIB, lambda _: MODEL_MIB * MIB)
        play(engine, scene, meter=meter, file=tmp_path / "memory.json")
    assert '"measured_bytes": 419430400' in (tmp_path / "memory.json").read_text()


def test_host_that_cannot_be_read_stops_no_model(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeMeter):
        async def read(self, pids: Mapping[int, int], *, by_node: bool) -> Reading:
            raise OSError("no /proc here")

    async def scene(fleet: Fleet, _: FakeMeter) -> None:
        async with fleet.lease("a", deadline_s=time.monotonic() + DAY_S):
            assert states(fleet)["a"] is State.READY

    play(engine, scene, meter=Broken(engine, 0, lambda _: 0))
    assert "memory could not be read" in caplog.text


def test_budget_that_an_edit_lowers_binds_the_next_start(engine: FakeEngine) -> None:
    async def scene(fleet: Fleet, _: FakeMeter) -> None:
        await use(fleet, "a")
        fleet.want({key: spec(key) for key in "abc"}, max_loaded=None, budget=Budget(ram=500 * MIB))
        await asyncio.sleep(5)
        await use(fleet, "b")
        assert states(fleet) == {"a": State.STOPPED, "b": State.READY, "c": State.STOPPED}

    play(engine, scene)


def hopeful(mib: int, *, read: bool = True) -> ModelSpec:
    """A model that is not on disk and has so much weights."""
    of = {"layers": 4, "embedding": 64, "feed_forward": 128, "heads": 4, "kv_heads": 4, "tokens": 100, "context": 512}
    facts = facts_of(**of, weights_bytes=mib * MIB) if read else None
    run = run_spec(gpu_layers=0, weights=None, context_length=512)
    return replace(model_spec("far", run), weights_bytes=mib * MIB, facts=facts)


def test_only_what_can_never_fit_is_hopeless(engine: FakeEngine) -> None:
    """What is loaded can go; and where no header was read, a guess keeps nobody from a download."""

    async def scene(fleet: Fleet, _: FakeMeter) -> None:
        await use(fleet, "a")
        await fleet.refuse_hopeless(hopeful(900))
        await fleet.refuse_hopeless(hopeful(9000, read=False))
        with pytest.raises(DoesNotFitError, match=r"far does not fit: on RAM it needs weights 1\.2 GiB"):
            await fleet.refuse_hopeless(hopeful(1200))
        assert states(fleet)["a"] is State.READY

    play(engine, scene)


def test_memory_that_may_still_come_back_makes_nothing_hopeless(engine: FakeEngine) -> None:
    async def scene(fleet: Fleet, meter: FakeMeter) -> None:
        await use(fleet, "a")
        await fleet.unload("a")
        meter.others_bytes = 500 * MIB  # as a driver that takes its time
        asking = asyncio.create_task(fleet.refuse_hopeless(hopeful(900)))
        await asyncio.sleep(2)
        meter.others_bytes = 0
        await asking
        meter.others_bytes = 500 * MIB
        with pytest.raises(DoesNotFitError):
            await fleet.refuse_hopeless(hopeful(900))

    play(engine, scene)


def test_memory_that_cannot_be_read_makes_nothing_hopeless(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> Reading:
        raise RuntimeError("the driver is gone")

    async def scene(fleet: Fleet, meter: FakeMeter) -> None:
        monkeypatch.setattr(meter, "read", broken)
        await fleet.refuse_hopeless(hopeful(9000))
        assert "memory could not be read" in caplog.text

    play(engine, scene)


def test_what_models_could_have_together_does_not_grow_by_what_came_after_the_reading(engine: FakeEngine) -> None:
    """Pages show the last reading: a model that took its memory since then was still free memory in it."""

    async def scene(fleet: Fleet, _: FakeMeter) -> None:
        assert fleet.shares() == []
        fleet.want({key: replace(spec(key, 92), facts=SMALL) for key in "ab"}, max_loaded=None)
        promised = []
        for key in "ab":
            await use(fleet, key)
            [share] = fleet.shares()
            assert share.limit_bytes <= 1000 * MIB
            promised.append(share.promised_bytes)
        assert promised[0] > 92 * MIB
        assert promised[1] > promised[0]

    play(engine, scene)
