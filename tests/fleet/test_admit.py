"""Starts and evictions by memory: what is booked, who goes for whom, and what is refused. Plain calls of ``decide``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.engines.base import WeightsId
from app.errors import DoesNotFitError, UnavailableError
from app.fleet.decide import decide
from app.fleet.estimate import RAM
from app.fleet.memory import Booking, Budget, Reading
from app.fleet.spec import ModelSpec
from app.fleet.states import (
    Action,
    Drain,
    FleetState,
    Forgo,
    InstanceFacts,
    Limits,
    Look,
    Measure,
    MemoryState,
    Refuse,
    Start,
    State,
    WaiterFacts,
    Why,
)
from app.units import MIB
from tests.fakes import DAY_S, model_spec, run_spec

NOW_S, LIMITS = 10_000.0, Limits()
LONG_AGO_S = NOW_S - 3600


def spec(key: str, mib: int = 100, **section: Any) -> ModelSpec:
    """A model that takes so much, and a tenth more: its header was not read."""
    run = run_spec(gpu_layers=0, weights=WeightsId(Path(f"/models/{key}.gguf"), mib * MIB, 1))
    return replace(model_spec(key, run, **section), weights_bytes=mib * MIB)


def instance(number: int, model: ModelSpec, mib: int = 110, **more: Any) -> InstanceFacts:
    given: dict[str, Any] = {"state": State.READY, "leases": 0, "last_used_s": LONG_AGO_S, "why": None}
    given["booking"] = Booking({RAM: mib * MIB}, {})
    return InstanceFacts(id=number, key=model.key, run=model.run, **given | more)


def waiter(number: int, key: str, since_s: float = NOW_S) -> WaiterFacts:
    return WaiterFacts(number, key, since_s, NOW_S + DAY_S, takes_slot=True)


def fleet(
    models: Iterable[ModelSpec],
    *instances: InstanceFacts,
    waiters: Iterable[WaiterFacts] = (),
    free_mib: int = 1000,
    memory: MemoryState | None = None,
    **more: Any,
) -> FleetState:
    given: dict[str, Any] = {"records": {}, "desired": frozenset(), "max_loaded": 32, "shutting_down": False}
    reading = Reading(NOW_S, {RAM: free_mib * MIB})
    memory = memory or MemoryState(reading, is_fresh=True, is_being_read=False)
    by_key = {model.key: model for model in models}
    return FleetState(models=by_key, instances=instances, waiters=tuple(waiters), memory=memory, **given | more)


def deeds(state: FleetState) -> list[Action]:
    return [action for action in decide(state, LIMITS, now_s=NOW_S) if not isinstance(action, Look)]


def started(state: FleetState) -> list[str]:
    return [action.key for action in deeds(state) if isinstance(action, Start)]


def error_of(state: FleetState) -> Exception:
    (refused,) = deeds(state)
    assert isinstance(refused, Refuse)
    return refused.error


A, B, C = spec("a"), spec("b"), spec("c")


def test_nothing_starts_before_memory_was_read() -> None:
    unread = MemoryState(None, is_fresh=False, is_being_read=False)
    state = fleet([A], waiters=[waiter(1, "a")], memory=unread)
    assert deeds(state) == [Measure()]
    assert deeds(replace(state, memory=replace(unread, is_being_read=True))) == []


def test_nothing_starts_by_a_reading_from_before_something_went() -> None:
    """A driver may take its time to give memory back: what is free is looked at anew."""
    old = MemoryState(Reading(NOW_S, {RAM: 1000 * MIB}), is_fresh=False, is_being_read=False)
    assert deeds(fleet([A], waiters=[waiter(1, "a")], memory=old)) == [Measure()]


def test_models_start_side_by_side_while_there_is_memory() -> None:
    state = fleet([A, B, C], instance(1, A), waiters=[waiter(1, "b"), waiter(2, "c")], free_mib=1000)
    assert started(state) == ["b", "c"]


def test_start_is_booked_for_the_next_one_of_the_same_decision() -> None:
    state = fleet([A, B], waiters=[waiter(1, "a"), waiter(2, "b")], free_mib=150)
    assert started(state) == ["a"]


def test_number_of_places_stays_a_bound() -> None:
    state = fleet([A, B], instance(1, A, leases=1), waiters=[waiter(1, "b")], max_loaded=1)
    assert deeds(state) == []


def test_promise_that_was_not_taken_up_yet_is_not_given_to_another() -> None:
    loading = instance(1, A, mib=110, state=State.STARTING)
    assert started(fleet([A, B], loading, waiters=[waiter(1, "b")], free_mib=200)) == []
    assert started(fleet([A, B], loading, waiters=[waiter(1, "b")], free_mib=230)) == ["b"]


def test_idle_model_goes_when_there_is_no_memory_for_both() -> None:
    state = fleet([A, B], instance(1, A), waiters=[waiter(1, "b")], free_mib=150)
    assert deeds(state) == [Drain(1, Why.EVICTED)]


def test_what_stops_keeps_its_memory_until_it_is_verified_gone() -> None:
    for out in (State.DRAINING, State.STOPPING):
        leaving = instance(1, A, state=out, why=Why.EVICTED, leases=1)
        assert deeds(fleet([A, B], leaving, waiters=[waiter(1, "b")], free_mib=150)) == []


def test_no_more_models_go_than_are_needed() -> None:
    small, big = spec("small", 50), spec("big", 300)
    rows = [
        instance(1, small, mib=55, last_used_s=LONG_AGO_S - 9),
        instance(2, big, mib=330, last_used_s=LONG_AGO_S),
    ]
    state = fleet([small, big, spec("new", 300)], *rows, waiters=[waiter(1, "new")], free_mib=400)
    assert deeds(state) == [Drain(2, Why.EVICTED)], "the longest idle alone would not have been enough"


def test_several_go_together_where_one_is_not_enough() -> None:
    state = fleet([A, B, spec("new", 200)], instance(1, A), instance(2, B), waiters=[waiter(1, "new")], free_mib=230)
    assert deeds(state) == [Drain(1, Why.EVICTED), Drain(2, Why.EVICTED)]


def test_what_is_quick_to_load_again_goes_before_what_was_idle_a_little_longer() -> None:
    slow = instance(1, A, last_used_s=NOW_S - 100, load_s=60.0)
    quick = instance(2, B, last_used_s=NOW_S - 60, load_s=2.0)
    assert deeds(fleet([A, B, C], slow, quick, waiters=[waiter(1, "c")], free_mib=240)) == [Drain(2, Why.EVICTED)]


def test_busy_model_is_not_evicted() -> None:
    state = fleet([A, B], instance(1, A, leases=1), waiters=[waiter(1, "b")], free_mib=150)
    assert deeds(state) == []


def test_busy_model_takes_no_new_work_once_somebody_waited_long() -> None:
    waited = waiter(1, "b", since_s=NOW_S - 60)
    assert deeds(fleet([A, B], instance(1, A, leases=1), waiters=[waited], free_mib=150)) == [Drain(1, Why.EVICTED)]


def test_model_used_a_moment_ago_is_not_evicted() -> None:
    fresh = instance(1, A, last_used_s=NOW_S - 1)
    state = fleet([A, B], fresh, waiters=[waiter(1, "b")], free_mib=150)
    assert deeds(state) == []
    assert min(a.at_s for a in decide(state, LIMITS, now_s=NOW_S) if isinstance(a, Look)) == NOW_S + 1


def test_pinned_model_never_goes_and_whoever_waits_for_its_memory_is_told() -> None:
    pinned = spec("a", pin=True)
    waited = waiter(1, "b", since_s=NOW_S - 60)
    error = error_of(fleet([pinned, B], instance(1, pinned), waiters=[waited], free_mib=150))
    assert type(error) is UnavailableError
    assert "no place for b: a is pinned" in str(error)


def test_pinned_model_never_goes_for_a_place_either() -> None:
    pinned = spec("a", pin=True)
    state = fleet([pinned, B], instance(1, pinned), waiters=[waiter(1, "b")], max_loaded=1)
    assert "a is pinned" in str(error_of(state))


def test_model_that_cannot_fit_even_alone_is_refused_at_once_with_the_sum() -> None:
    """Nobody is evicted for what can never be."""
    huge = spec("huge", 2000)
    error = error_of(fleet([A, huge], instance(1, A), waiters=[waiter(1, "huge")], free_mib=1000))
    assert isinstance(error, DoesNotFitError)
    assert "needs weights, their header unread 2.1 GiB" in str(error)


def test_budget_of_the_profile_is_a_bound_however_much_is_free() -> None:
    reading = Reading(NOW_S, {RAM: 10_000 * MIB})
    memory = MemoryState(reading, is_fresh=True, is_being_read=False, budget=Budget(ram=200 * MIB))
    assert deeds(fleet([A, B], instance(1, A), waiters=[waiter(1, "b")], memory=memory)) == [Drain(1, Why.EVICTED)]


def test_one_who_waits_for_memory_is_not_overtaken_by_those_behind() -> None:
    """Else small models would take every byte that comes back before a large one."""
    big = spec("big", 300)
    state = fleet([A, B, big], instance(1, A, leases=1), waiters=[waiter(1, "big"), waiter(2, "b")], free_mib=400)
    assert deeds(state) == []


def busy_and(big_mib: int, **more: Any) -> FleetState:
    """A, which is busy, and a large model that waits for it to go, before b."""
    big = spec("big", big_mib)
    held = Booking({RAM: 300 * MIB}, {RAM: 300 * MIB})
    busy = instance(1, A, leases=1, booking=held)
    return fleet([A, B, big], busy, waiters=[waiter(1, "big"), waiter(2, "b")], free_mib=400, **more)


def test_small_model_starts_while_a_large_one_waits_where_it_takes_nothing_from_it() -> None:
    """The busy one may stream for minutes; what is free for both has no reason to wait with the large one."""
    assert started(busy_and(536)) == ["b"]  # 589.6 MiB and 110, of 700 once a is gone
    assert started(busy_and(537)) == []


def test_small_model_starts_by_itself_while_a_large_one_waits_where_it_takes_nothing_from_it() -> None:
    state = busy_and(536)
    alone = replace(state, waiters=state.waiters[:1], desired=frozenset({"b"}))
    assert started(alone) == ["b"]
    assert started(replace(busy_and(537), waiters=state.waiters[:1], desired=frozenset({"b"}))) == []


def test_no_place_is_taken_beyond_those_there_are_while_a_large_one_waits() -> None:
    assert started(busy_and(536, max_loaded=2)) == ["b"]
    assert started(busy_and(536, max_loaded=1)) == []


@settings(max_examples=200, deadline=None)
@given(
    free_mib=st.integers(0, 1000),
    held_mib=st.integers(10, 600),
    big_mib=st.integers(10, 900),
    small_mib=st.integers(10, 500),
    is_auto=st.booleans(),
)
def test_whoever_waits_for_memory_has_no_less_of_it_by_those_who_start_meanwhile(
    free_mib: int, held_mib: int, big_mib: int, small_mib: int, is_auto: bool
) -> None:
    """Else one small model after another would be started before the large one."""
    big, small = spec("big", big_mib), spec("b", small_mib)
    if is_auto:
        small = replace(small, run=replace(small.run, slots=None, context_length=None))
    held = Booking({RAM: held_mib * MIB}, {RAM: held_mib * MIB})
    busy = instance(1, A, leases=1, booking=held)
    waiters = [waiter(1, "big"), waiter(2, "b")]
    state = fleet([A, big, small], busy, waiters=waiters, free_mib=free_mib)
    if started(state) != ["b"] or any(isinstance(action, Refuse) for action in deeds(state)):
        return
    (start,) = (action for action in deeds(state) if isinstance(action, Start))
    assert start.fitted is not None
    taken_bytes = start.fitted.estimate.takes[RAM]
    assert taken_bytes <= free_mib * MIB
    reading = Reading(NOW_S, {RAM: (free_mib + held_mib) * MIB - taken_bytes})
    memory = MemoryState(reading, is_fresh=True, is_being_read=False)
    assert started(fleet([A, big, small], waiters=waiters[:1], memory=memory)) == ["big"]


def test_preloaded_model_waits_for_room_and_takes_none() -> None:
    assert deeds(fleet([A, B], instance(1, A), desired=frozenset({"b"}), free_mib=150)) == []
    assert started(fleet([A, B], instance(1, A), desired=frozenset({"b"}), free_mib=300)) == ["b"]


def test_preloaded_model_that_can_never_fit_is_given_up_and_said() -> None:
    (forgone,) = deeds(fleet([spec("huge", 2000)], desired=frozenset({"huge"})))
    assert isinstance(forgone, Forgo)
    assert forgone.message.startswith("huge does not fit")


def test_stuck_engine_keeps_its_memory_and_whoever_needs_it_is_told() -> None:
    stuck = instance(1, A, state=State.STUCK, why=Why.FAULT)
    assert "cannot be stopped" in str(error_of(fleet([A, B], stuck, waiters=[waiter(1, "b")], free_mib=150)))
    assert started(fleet([A, B], stuck, waiters=[waiter(1, "b")], free_mib=300)) == ["b"]


def test_threads_are_what_the_loaded_engines_leave() -> None:
    reading = Reading(NOW_S, {RAM: 1000 * MIB})
    memory = MemoryState(reading, is_fresh=True, is_being_read=False, threads=7)
    wide = replace(B, run=replace(B.run, threads=7))
    state = fleet([A, wide], instance(1, A, threads=5), waiters=[waiter(1, "b")], memory=memory)
    (start,) = deeds(state)
    assert isinstance(start, Start)
    assert start.fitted is not None
    assert start.fitted.fit.threads == 2
