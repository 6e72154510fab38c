"""After a start that ran out of memory whatever was predicted: smaller where that is open, else more room, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.engines.base import WeightsId
from app.fleet.decide import decide
from app.fleet.estimate import RAM
from app.fleet.facts import ModelBroke
from app.fleet.fit import Fitted, find_fit, find_smaller_fit
from app.fleet.fleet import Fleet
from app.fleet.memory import Booking, Cramped, Reading, Room
from app.fleet.meter import Memory
from app.fleet.records import still_cramped
from app.fleet.spec import ModelSpec
from app.fleet.states import (
    Action,
    Drain,
    FleetState,
    InstanceFacts,
    Limits,
    Look,
    MemoryState,
    Record,
    Start,
    State,
    WaiterFacts,
    Why,
)
from app.journal import Journal
from app.units import GIB, MIB
from tests.fakes import DAY_S, FakeEngine, FakeMeter, Manner, model_spec, run_spec
from tests.fleet.virtual import virtual_time
from tests.support.models import SEVEN, demand

NOW_S = 10_000.0
PC = Room({RAM: 28 * GIB, "GPU 0": 15 * GIB})


def fitted(**run: Any) -> Fitted:
    found = find_fit(demand(SEVEN, **run), PC)
    assert isinstance(found, Fitted)
    return found


@pytest.mark.parametrize(
    ("open_", "run"),
    [
        ("context_length", {"context_length": None, "slots": 1}),
        ("slots", {"context_length": 16_384, "slots": None}),
        ("gpu_layers", {"context_length": 8192, "slots": 1}),
    ],
)
def test_what_the_manifest_leaves_open_shrinks(open_: str, run: dict[str, Any]) -> None:
    before = fitted(**run)
    smaller = find_smaller_fit(demand(SEVEN, **run), PC, Cramped("GPU", before.estimate.takes, 0, NOW_S))
    assert smaller is not None
    assert smaller.estimate.takes["GPU 0"] < before.estimate.takes["GPU 0"]
    assert getattr(smaller.fit, open_) != getattr(before.fit, open_)
    assert smaller.shrunk
    assert smaller.warning is not None
    assert smaller.warning.startswith("a start of m ran out of memory, so it is smaller now: ")


def test_what_the_manifest_fixes_does_not_shrink() -> None:
    run: dict[str, Any] = {"context_length": 8192, "slots": 1, "gpu_layers": -1}
    assert find_smaller_fit(demand(SEVEN, **run), PC, Cramped("GPU", fitted(**run).estimate.takes, 0, NOW_S)) is None


# Nothing to shrink: an idle model goes.


def fixed(key: str, **section: Any) -> ModelSpec:
    run = run_spec(gpu_layers=0, weights=WeightsId(Path(f"/models/{key}.gguf"), 100 * MIB, 1))
    return replace(model_spec(key, run, **section), weights_bytes=100 * MIB)


A, B, C = fixed("a"), fixed("b"), fixed("c")


def instance(number: int, model: ModelSpec, **more: Any) -> InstanceFacts:
    given: dict[str, Any] = {"state": State.READY, "leases": 0, "last_used_s": NOW_S - 3600, "why": None}
    return InstanceFacts(id=number, key=model.key, run=model.run, booking=Booking({RAM: 110 * MIB}, {}), **given | more)


ONE = (WaiterFacts(1, "a", NOW_S, NOW_S + DAY_S, takes_slot=True),)


def deeds(
    *instances: InstanceFacts,
    looks: bool,
    others: int,
    models: Iterable[ModelSpec] = (A, B, C),
    waiters: Iterable[WaiterFacts] = ONE,
    ran_out_s: float = NOW_S,
) -> list[Action]:
    """What follows for those who wait for a, whose start ran out of memory beside so many others."""
    reading = Reading(NOW_S, {RAM: 1000 * MIB})
    takes = {RAM: 110 * MIB} if looks else {}
    state = FleetState(
        models={model.key: model for model in models},
        instances=instances,
        waiters=tuple(waiters),
        records={"a": Record(failures_s=(ran_out_s,), cramped=Cramped("host", takes, others, ran_out_s))},
        desired=frozenset(),
        max_loaded=3,
        shutting_down=False,
        memory=MemoryState(reading, is_fresh=True, is_being_read=False) if looks else None,
    )
    return [action for action in decide(state, Limits(), now_s=NOW_S) if not isinstance(action, Look)]


@pytest.mark.parametrize("looks", [True, False])
def test_one_idle_model_goes_and_then_it_is_tried_again(looks: bool) -> None:
    b, c = instance(1, B, last_used_s=NOW_S - 99), instance(2, C)
    assert deeds(b, c, looks=looks, others=2) == [Drain(2, Why.CRAMPED)]
    assert deeds(b, replace(c, state=State.STOPPING, why=Why.CRAMPED), looks=looks, others=2) == []
    assert [type(deed) for deed in deeds(b, looks=looks, others=2)] == [Start]


def test_nobody_else_starts_in_the_room_that_was_made() -> None:
    waiters = [WaiterFacts(n, key, NOW_S, NOW_S + DAY_S, takes_slot=True) for n, key in enumerate("ac")]
    assert deeds(instance(1, B), looks=True, others=1, waiters=waiters) == [Drain(1, Why.CRAMPED)]


def test_one_who_wants_it_beside_the_others_has_no_room_made() -> None:
    waiters = [WaiterFacts(1, "a", NOW_S, NOW_S + DAY_S, takes_slot=False, evicts=False)]
    assert [type(deed) for deed in deeds(instance(1, B), looks=True, others=1, waiters=waiters)] == [Start]


@pytest.mark.parametrize("looks", [True, False])
def test_without_anybody_who_could_go_it_is_tried_again_as_it_is(looks: bool) -> None:
    pinned = fixed("b", pin=True)
    assert [type(deed) for deed in deeds(looks=looks, others=0)] == [Start]
    assert [type(deed) for deed in deeds(instance(1, B, leases=1), looks=looks, others=1)] == [Start]
    assert [type(deed) for deed in deeds(instance(1, pinned), looks=looks, others=1, models=(A, pinned, C))] == [Start]


# What is remembered of it fades.

RAN_OUT = Record(cramped=Cramped("GPU", {"GPU 0": 8 * GIB, RAM: GIB}, 0, NOW_S, {"GPU 0": 9 * GIB}))
SAME, CLEARLY_MORE = {"GPU 0": 9 * GIB, RAM: 99 * GIB}, {"GPU 0": 11 * GIB, RAM: GIB}
MINUTE_S = 60.0


@pytest.mark.parametrize(
    ("room", "later_s", "counts"),
    [
        (SAME, 0, True),
        (SAME, 29 * MINUTE_S, True),
        (SAME, 30 * MINUTE_S, False),
        ({}, 29 * MINUTE_S, True),
        ({}, 30 * MINUTE_S, False),
        (CLEARLY_MORE, 9 * MINUTE_S, True),
        (CLEARLY_MORE, 10 * MINUTE_S, False),
        (CLEARLY_MORE | {"GPU 0": 11 * GIB - 1}, 29 * MINUTE_S, True),
    ],
)
def test_start_that_ran_out_counts_for_half_an_hour_or_until_there_is_clearly_more_room(
    room: dict[str, int], later_s: float, counts: bool
) -> None:
    """Never for less than the budget of restarts remembers it: a second time within that makes the model fail."""
    assert (still_cramped(RAN_OUT, room, Limits(), now_s=NOW_S + later_s) is not None) == counts


def test_model_that_never_ran_out_is_not_cramped() -> None:
    assert still_cramped(Record(failures_s=(NOW_S,)), SAME, Limits(), now_s=NOW_S) is None
    assert still_cramped(None, SAME, Limits(), now_s=NOW_S) is None


@pytest.mark.parametrize("looks", [True, False])
def test_no_idle_model_goes_for_a_start_that_ran_out_half_an_hour_ago(looks: bool) -> None:
    assert [type(deed) for deed in deeds(instance(1, B), looks=looks, others=1, ran_out_s=NOW_S - 1800)] == [Start]


@pytest.mark.parametrize(
    ("before_gib", "after_gib", "later_s", "in_full"),
    [(0, 0, 20 * MINUTE_S, False), (0, 0, 31 * MINUTE_S, True), (7, 0, 12 * MINUTE_S, True), (7, 0, MINUTE_S, False)],
)
def test_model_that_was_made_smaller_is_tried_in_full_again(
    engine: FakeEngine, before_gib: int, after_gib: int, later_s: float, in_full: bool
) -> None:
    """By the first start that comes late enough, or finds clearly more room; what runs meanwhile is left alone."""
    short = Manner(exit_code=1, last_lines=("alloc_buffer: failed to allocate buffer",))
    run = run_spec(gpu_layers=0, weights=WeightsId(Path("/models/a.gguf"), 4 * GIB, 1), context_length=None)
    spec = replace(model_spec("a", run), weights_bytes=4 * GIB, facts=SEVEN)

    async def starts_smaller(fleet: Fleet) -> bool:
        async with fleet.lease("a", deadline_s=time.monotonic() + DAY_S):
            message = fleet.status()["a"].message
        await fleet.unload("a")
        return message is not None

    async def scene() -> None:
        journal, meter = Journal(), FakeMeter(engine, 24 * GIB, lambda _: 0)
        engine.default, meter.others_bytes = short, before_gib * GIB
        journal.subscribe(lambda fact: setattr(engine, "default", Manner()) if isinstance(fact, ModelBroke) else None)
        fleet = Fleet(engine, Path("/tmp/airlab-test"), journal, memory=Memory(meter))
        fleet.want({"a": spec}, max_loaded=None)
        assert await starts_smaller(fleet)
        await asyncio.sleep(later_s)
        meter.others_bytes = after_gib * GIB
        assert await starts_smaller(fleet) is not in_full
        assert len(engine.started) == 3
        assert await fleet.shut_down(drain_s=1)

    with virtual_time() as loop:
        loop.run_until_complete(scene())


def test_smaller_start_is_told_in_the_status_and_a_load_by_hand_tries_it_in_full(engine: FakeEngine) -> None:
    """The first of three starts is short of memory: the second is smaller, and the third, asked for by hand, is not."""
    engine.default = Manner(exit_code=1, last_lines=("alloc_buffer: failed to allocate buffer",))
    run = run_spec(gpu_layers=0, weights=WeightsId(Path("/models/a.gguf"), 4 * GIB, 1), context_length=None)
    spec = replace(model_spec("a", run), weights_bytes=4 * GIB, facts=SEVEN)

    async def scene() -> None:
        journal = Journal()
        journal.subscribe(lambda fact: setattr(engine, "default", Manner()) if isinstance(fact, ModelBroke) else None)
        fleet = Fleet(
            engine, Path("/tmp/airlab-test"), journal, memory=Memory(FakeMeter(engine, 12 * GIB, lambda _: 0))
        )
        fleet.want({"a": spec}, max_loaded=None)
        async with fleet.lease("a", deadline_s=time.monotonic() + DAY_S):
            message = fleet.status()["a"].message
        await fleet.unload("a")
        await fleet.load("a")
        assert message is not None
        assert message.startswith("a start of a ran out of memory, so it is smaller now")
        assert fleet.status()["a"].message is None
        assert await fleet.shut_down(drain_s=1)

    with virtual_time() as loop:
        loop.run_until_complete(scene())
    first, second, third = (running.launch.fit for running in engine.started)
    assert first is not None
    assert second is not None
    assert second.context_length < first.context_length
    assert third == first
