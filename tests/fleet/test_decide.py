"""Each row of the table of states, and each promise of the queue, as plain calls of a pure function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.engines.base import RunSpec
from app.errors import (
    AirLabError,
    DrainingError,
    ModelCoolingError,
    ModelFailedError,
    ModelNotFoundError,
    UnavailableError,
    WaitTimeoutError,
    WeightsBrokenError,
    WeightsMissingError,
)
from app.fleet.decide import decide
from app.fleet.records import Fault, after_fault
from app.fleet.spec import ModelSpec
from app.fleet.states import (
    Action,
    Drain,
    Failure,
    FleetState,
    Grant,
    InstanceFacts,
    Limits,
    Look,
    Record,
    Refuse,
    Start,
    State,
    Stop,
    Undrain,
    WaiterFacts,
    Why,
)
from tests.fakes import DAY_S, model_spec, run_spec

LIMITS = Limits()
NOW_S = 10_000.0
LONG_AGO_S = NOW_S - 3600
OUT = {State.DRAINING, State.STOPPING, State.STUCK}


def instance(number: int, key: str, state: State = State.READY, *, run: RunSpec | None = None, **more: Any) -> Any:
    given: dict[str, Any] = {
        "leases": 0,
        "last_used_s": LONG_AGO_S,
        "why": Why.CHANGED if state in OUT else None,
    }
    run = run or run_spec(f"{key}.gguf")
    given["slots"] = run.slots
    return InstanceFacts(id=number, key=key, run=run, state=state, **given | more)


def waiter(number: int, key: str, *, since_s: float = NOW_S, **more: Any) -> WaiterFacts:
    given: dict[str, Any] = {"deadline_s": NOW_S + DAY_S, "takes_slot": True}
    return WaiterFacts(id=number, key=key, since_s=since_s, **given | more)


def fleet(
    *instances: InstanceFacts,
    waiters: Iterable[WaiterFacts] = (),
    models: Mapping[str, ModelSpec] | None = None,
    **more: Any,
) -> FleetState:
    given: dict[str, Any] = {"records": {}, "desired": frozenset(), "max_loaded": 1, "shutting_down": False}
    if models is None:
        models = {key: model_spec(key) for key in "abcd"}
    return FleetState(models=models, instances=instances, waiters=tuple(waiters), **given | more)


def deeds(state: FleetState, *, now_s: float = NOW_S) -> list[Action]:
    """What is done now."""
    return [action for action in decide(state, LIMITS, now_s=now_s) if not isinstance(action, Look)]


def looks(state: FleetState, *, now_s: float = NOW_S) -> float:
    """When the decision is taken again at the latest."""
    return min(action.at_s for action in decide(state, LIMITS, now_s=now_s) if isinstance(action, Look))


def refusal(state: FleetState, *, now_s: float = NOW_S) -> AirLabError:
    (refused,) = deeds(state, now_s=now_s)
    assert isinstance(refused, Refuse)
    return refused.error


# stopped


def test_nothing_is_done_where_nobody_waits() -> None:
    assert decide(fleet(), LIMITS, now_s=NOW_S) == []


def test_stopped_model_starts_for_a_waiter() -> None:
    assert deeds(fleet(waiters=[waiter(1, "a")])) == [Start("a")]


def test_place_goes_to_those_who_waited_for_it_before_a_load_that_stalled_is_tried_again() -> None:
    """Its pause may be over before a start is possible, as while memory is read."""
    record = Record(failures_s=(NOW_S - 2,), cooling_until_s=NOW_S - 1, stalled_loads=1)
    state = fleet(
        waiters=[waiter(1, "a", since_s=NOW_S - 122), waiter(2, "b", since_s=NOW_S - 60), waiter(3, "c")],
        records={"a": record},
    )
    assert deeds(state) == [Start("b")]
    assert deeds(replace(state, records={"a": replace(record, stalled_loads=0)})) == [Start("a")]
    # Whoever comes after the stall is behind it: a model that is asked for without a pause starves nobody.
    later = [each for each in state.waiters if each.key != "b"]
    assert deeds(replace(state, waiters=tuple(later))) == [Start("a")]


def test_stopped_model_starts_for_one_who_only_wants_it_loaded() -> None:
    assert deeds(fleet(waiters=[waiter(1, "a", takes_slot=False)])) == [Start("a")]


def test_desired_models_start_while_there_are_places() -> None:
    assert deeds(fleet(desired=frozenset("abc"), max_loaded=2)) == [Start("a"), Start("b")]


def test_desired_model_never_evicts() -> None:
    """A preload is a wish: it takes no model away from somebody who asked for it."""
    assert deeds(fleet(instance(1, "a"), desired=frozenset({"b"}))) == []


def test_desired_model_leaves_the_free_place_to_one_who_waits() -> None:
    assert deeds(fleet(waiters=[waiter(1, "b")], desired=frozenset({"a"}))) == [Start("b")]


def test_several_waiters_of_one_model_start_it_once() -> None:
    assert deeds(fleet(waiters=[waiter(n, "a") for n in (1, 2, 3)], max_loaded=3)) == [Start("a")]


# starting


@pytest.mark.parametrize("takes_slot", [True, False])
def test_nobody_is_granted_what_still_loads(takes_slot: bool) -> None:
    assert deeds(fleet(instance(1, "a", State.STARTING), waiters=[waiter(1, "a", takes_slot=takes_slot)])) == []


def test_loading_goes_on_when_the_last_waiter_has_left() -> None:
    assert deeds(fleet(instance(1, "a", State.STARTING))) == []


def test_loading_model_that_was_removed_is_stopped_at_once() -> None:
    assert deeds(fleet(instance(1, "z", State.STARTING))) == [Stop(1, Why.REMOVED)]


def test_loading_model_that_was_edited_is_stopped_at_once() -> None:
    assert deeds(fleet(instance(1, "a", State.STARTING, run=run_spec("old.gguf")))) == [Stop(1, Why.CHANGED)]


def test_loading_model_is_not_evicted() -> None:
    state = fleet(instance(1, "a", State.STARTING), waiters=[waiter(1, "b", since_s=LONG_AGO_S)])
    assert deeds(state) == []


# ready


def test_ready_model_grants_as_many_as_it_has_slots_in_order_of_arrival() -> None:
    two = run_spec("a.gguf", slots=2)
    state = fleet(
        instance(7, "a", run=two),
        waiters=[waiter(n, "a") for n in (1, 2, 3)],
        models={"a": model_spec("a", two)},
    )
    assert deeds(state) == [Grant(1, 7), Grant(2, 7)]


def test_ready_model_tells_loaders_so_without_a_slot() -> None:
    state = fleet(instance(7, "a", leases=1), waiters=[waiter(1, "a"), waiter(2, "a", takes_slot=False)])
    assert deeds(state) == [Grant(2, 7)]


def test_busy_outdated_model_drains_and_its_successor_starts_beside_it() -> None:
    """An edit cuts no answer short, and where memory allows keeps nobody waiting."""
    old = instance(1, "a", run=run_spec("old.gguf"), leases=1)
    state = fleet(old, waiters=[waiter(1, "a")], max_loaded=2)
    assert deeds(state) == [Drain(1, Why.CHANGED), Start("a")]


def test_successor_waits_for_the_place_of_the_outdated_one() -> None:
    old = instance(1, "a", run=run_spec("old.gguf"), leases=1)
    assert deeds(fleet(old, waiters=[waiter(1, "a")])) == [Drain(1, Why.CHANGED)]


def test_removed_model_drains_and_its_waiters_hear_of_it() -> None:
    drained, refused = deeds(fleet(instance(1, "z", leases=1), waiters=[waiter(1, "z")]))
    assert drained == Drain(1, Why.REMOVED)
    assert isinstance(refused, Refuse)
    assert isinstance(refused.error, ModelNotFoundError)


def test_idle_model_leaves_after_its_idle_timeout() -> None:
    models = {"a": model_spec("a", idle_timeout=60.0)}
    state = fleet(instance(1, "a", last_used_s=NOW_S), models=models)
    assert deeds(state) == []
    assert looks(state) == NOW_S + 60
    assert deeds(state, now_s=NOW_S + 60) == [Drain(1, Why.IDLE)]


@pytest.mark.parametrize("busy", [{"leases": 1}, {"waits": True}])
def test_model_with_work_is_never_idle(busy: dict[str, Any]) -> None:
    full = instance(1, "a", leases=busy.get("leases", 0))
    waiters = [waiter(1, "a", takes_slot=False)] if "waits" in busy else []
    state = fleet(full, waiters=waiters, models={"a": model_spec("a", idle_timeout=60.0)})
    assert Drain(1, Why.IDLE) not in deeds(state)


# eviction


def test_idle_model_gives_its_place_to_one_who_waits() -> None:
    assert deeds(fleet(instance(1, "a"), waiters=[waiter(1, "b")])) == [Drain(1, Why.EVICTED)]


def test_model_used_within_two_seconds_is_not_evicted() -> None:
    """Two clients in turn would otherwise have two models loaded again for each request."""
    state = fleet(instance(1, "a", last_used_s=NOW_S - 1.5), waiters=[waiter(1, "b")])
    assert deeds(state) == []
    assert looks(state) == NOW_S + 0.5
    assert deeds(state, now_s=NOW_S + 0.5) == [Drain(1, Why.EVICTED)]


def test_model_unused_for_longest_is_evicted() -> None:
    young, old = instance(1, "a", last_used_s=NOW_S - 10), instance(2, "b", last_used_s=NOW_S - 20)
    assert deeds(fleet(young, old, waiters=[waiter(1, "c")], max_loaded=2)) == [Drain(2, Why.EVICTED)]


def test_idle_model_is_evicted_rather_than_a_busy_one_unused_for_longer() -> None:
    busy, idle = instance(1, "a", leases=1), instance(2, "b", last_used_s=NOW_S - 5)
    state = fleet(busy, idle, waiters=[waiter(1, "c", since_s=LONG_AGO_S)], max_loaded=2)
    assert deeds(state) == [Drain(2, Why.EVICTED)]


def test_busy_model_is_left_alone_until_the_waiter_has_waited_long() -> None:
    """The bound of fairness: a busy model keeps nobody out for ever."""
    state = fleet(instance(1, "a", leases=1), waiters=[waiter(1, "b")])
    assert deeds(state) == []
    assert looks(state) == NOW_S + LIMITS.fairness_s
    assert deeds(state, now_s=NOW_S + LIMITS.fairness_s) == [Drain(1, Why.EVICTED)]


def test_model_granted_in_this_decision_is_busy_in_it() -> None:
    state = fleet(instance(1, "a"), waiters=[waiter(1, "a"), waiter(2, "b")])
    assert deeds(state) == [Grant(1, 1)]


def test_several_waiters_of_one_model_evict_one_model() -> None:
    state = fleet(instance(1, "a"), instance(2, "b"), waiters=[waiter(n, "c") for n in (1, 2, 3)], max_loaded=2)
    assert deeds(state) == [Drain(1, Why.EVICTED)]


def test_waiters_of_two_models_evict_two() -> None:
    state = fleet(instance(1, "a"), instance(2, "b"), waiters=[waiter(1, "c"), waiter(2, "d")], max_loaded=2)
    assert deeds(state) == [Drain(1, Why.EVICTED), Drain(2, Why.EVICTED)]


def test_nothing_is_evicted_where_a_place_is_on_its_way() -> None:
    state = fleet(instance(1, "a", State.STOPPING), instance(2, "b"), waiters=[waiter(1, "c")], max_loaded=2)
    assert deeds(state) == []


def test_two_who_wait_for_one_coming_place_evict_for_the_second() -> None:
    state = fleet(
        instance(1, "a", State.STOPPING),
        instance(2, "b"),
        waiters=[waiter(1, "c"), waiter(2, "d")],
        max_loaded=2,
    )
    assert deeds(state) == [Drain(2, Why.EVICTED)]


def test_waiter_of_the_loaded_model_is_served_before_it_goes() -> None:
    """A B A runs as A A B: loading costs more than a place in the line."""
    state = fleet(instance(1, "a"), waiters=[waiter(1, "b"), waiter(2, "a")])
    assert deeds(state) == [Grant(2, 1)]


def test_those_who_came_in_time_are_served_together_however_long_the_loads_took() -> None:
    """With loads longer than the bound of fairness, each load would else serve one request."""
    waiters = [waiter(1, "b", since_s=LONG_AGO_S), waiter(2, "a", since_s=LONG_AGO_S + 1)]
    state = fleet(instance(1, "a", leases=1), waiters=waiters)
    assert deeds(state) == []
    assert deeds(replace(state, waiters=tuple(waiters[:1]))) == [Drain(1, Why.EVICTED)]


def test_waiter_who_came_after_the_patience_of_another_had_ended_comes_after_them() -> None:
    """The starvation bound: a stream of requests for the loaded model keeps nobody out."""
    late_s = LONG_AGO_S + LIMITS.fairness_s
    state = fleet(instance(1, "a"), waiters=[waiter(1, "b", since_s=LONG_AGO_S), waiter(2, "a", since_s=late_s)])
    assert deeds(state) == [Drain(1, Why.EVICTED)]


@pytest.mark.parametrize(
    ("keep_alive_s", "idle_s", "leaves"),
    [(None, 100, False), (60.0, 59, False), (60.0, 61, True), (0.0, 0, True), (math.inf, 1e6, False)],
)
def test_request_says_how_long_its_model_stays(keep_alive_s: float | None, idle_s: float, leaves: bool) -> None:
    state = fleet(instance(1, "a", last_used_s=NOW_S - idle_s, keep_alive_s=keep_alive_s))
    assert deeds(state) == ([Drain(1, Why.IDLE)] if leaves else [])


def rivals(*, pin: bool = False) -> dict[str, ModelSpec]:
    """a says that it may not run with b; c may run with both."""
    return {"a": model_spec("a", not_with=["b"], pin=pin), "b": model_spec("b"), "c": model_spec("c")}


@pytest.mark.parametrize(("loaded", "wanted"), [("a", "b"), ("b", "a")])
def test_models_that_may_not_run_together_take_turns_though_there_is_a_place(loaded: str, wanted: str) -> None:
    """Whichever of the two says so; the second starts when the first is verified gone."""
    state = fleet(instance(1, loaded), waiters=[waiter(1, wanted)], models=rivals(), max_loaded=3)
    assert deeds(state) == [Drain(1, Why.EVICTED)]
    assert deeds(replace(state, instances=(instance(1, loaded, State.STOPPING),))) == []
    assert deeds(replace(state, instances=())) == [Start(wanted)]
    assert deeds(replace(state, waiters=(waiter(1, "c"),))) == [Start("c")]


def test_rival_of_one_who_came_first_does_not_start_beside_it() -> None:
    state = fleet(waiters=[waiter(1, "b"), waiter(2, "a"), waiter(3, "c")], models=rivals(), max_loaded=3)
    assert deeds(state) == [Start("b"), Start("c")]


def test_wish_sends_no_rival_away() -> None:
    state = fleet(instance(1, "a"), desired=frozenset("bc"), models=rivals(), max_loaded=3)
    assert deeds(state) == [Start("c")]
    assert deeds(fleet(desired=frozenset("abc"), models=rivals(), max_loaded=3)) == [Start("a"), Start("c")]


def test_edit_that_makes_rivals_sends_the_less_used_one_away() -> None:
    both = instance(1, "a", last_used_s=LONG_AGO_S), instance(2, "b"), instance(3, "c")
    busy = replace(both[1], leases=1)
    assert deeds(fleet(both[0], busy, both[2], models=rivals(), max_loaded=3)) == [Drain(1, Why.EVICTED)]


def test_pinned_rival_is_a_reason_to_refuse() -> None:
    state = fleet(instance(1, "a"), waiters=[waiter(1, "b")], models=rivals(pin=True), max_loaded=3)
    (refuse,) = deeds(state)
    assert isinstance(refuse, Refuse)
    assert refuse.error.message == "no place for b: a is pinned, and b may not run with it"


def test_request_keeps_a_model_beyond_the_manifests_idle_timeout() -> None:
    state = fleet(instance(1, "a", keep_alive_s=math.inf), models={"a": model_spec("a", idle_timeout=60)})
    assert deeds(state) == []


def test_pinned_model_is_not_a_requests_to_unload() -> None:
    state = fleet(instance(1, "a", keep_alive_s=0.0), models={"a": model_spec("a", pin=True)})
    assert deeds(state) == []


def test_one_who_wants_it_beside_the_others_evicts_nobody() -> None:
    state = fleet(instance(1, "a"), waiters=[waiter(1, "b", takes_slot=False, evicts=False)])
    (refuse,) = deeds(state)
    assert isinstance(refuse, Refuse)
    assert refuse.error.message == "b cannot be loaded beside what is loaded: every place is taken"
    assert deeds(replace(state, max_loaded=2)) == [Start("b")]


# draining


def test_drained_model_stops_when_its_last_lease_is_back() -> None:
    drained = instance(1, "a", State.DRAINING, why=Why.IDLE, leases=1)
    assert deeds(fleet(drained)) == []
    assert deeds(fleet(replace(drained, leases=0))) == [Stop(1, Why.IDLE)]


def test_draining_model_grants_nothing_more() -> None:
    full = instance(1, "a", State.DRAINING, why=Why.EVICTED, leases=1, run=run_spec("a.gguf", slots=4))
    assert deeds(fleet(full, waiters=[waiter(1, "a")])) == []


@pytest.mark.parametrize("why", [Why.CHANGED, Why.REMOVED])
def test_edit_taken_back_before_the_drain_ends_restarts_nothing(why: Why) -> None:
    assert deeds(fleet(instance(1, "a", State.DRAINING, why=why, leases=1))) == [Undrain(1)]


def test_edit_taken_back_grants_in_the_same_decision() -> None:
    state = fleet(instance(1, "a", State.DRAINING, why=Why.CHANGED), waiters=[waiter(1, "a")])
    assert Undrain(1) in deeds(state)
    assert Start("a") not in deeds(state)


def test_edit_taken_back_sends_the_successor_away_and_not_the_original() -> None:
    new = instance(2, "a", State.STARTING, run=run_spec("new.gguf"))
    old = instance(1, "a", State.DRAINING, why=Why.CHANGED, leases=1)
    assert deeds(fleet(old, new, max_loaded=2)) == [Undrain(1), Stop(2, Why.CHANGED)]


def test_unloaded_model_comes_back_for_a_request_only() -> None:
    unloaded = instance(1, "a", State.DRAINING, why=Why.UNLOADED, leases=1)
    assert deeds(fleet(unloaded)) == []
    assert Undrain(1) in deeds(fleet(unloaded, waiters=[waiter(1, "a")]))


def test_unloaded_model_stays_out_where_its_successor_runs_already() -> None:
    """Removed and added again with preload while the old one drained: two of one key must not both be current."""
    old, new = instance(1, "a", State.DRAINING, why=Why.UNLOADED, leases=1), instance(2, "a", leases=1)
    assert deeds(fleet(old, new, waiters=[waiter(1, "a")], max_loaded=2)) == []


@pytest.mark.parametrize("why", [Why.EVICTED, Why.IDLE, Why.SHUTDOWN, Why.FAULT])
def test_others_do_not_come_back_from_their_way_out(why: Why) -> None:
    assert Undrain(1) not in deeds(fleet(instance(1, "a", State.DRAINING, why=why, leases=1)))


# stopping and stuck


def test_request_during_a_stop_waits_for_a_fresh_server() -> None:
    """Nobody is handed a server that is about to disappear."""
    assert deeds(fleet(instance(1, "a", State.STOPPING), waiters=[waiter(1, "a")])) == []


def test_fresh_server_starts_beside_the_stopping_one_where_there_is_a_place() -> None:
    state = fleet(instance(1, "a", State.STOPPING), waiters=[waiter(1, "a")], max_loaded=2)
    assert deeds(state) == [Start("a")]


def test_stuck_engine_keeps_its_place_booked() -> None:
    """Its memory is still in use: another engine beside it would not fit."""
    stuck = instance(1, "a", State.STUCK)
    error = refusal(fleet(stuck, waiters=[waiter(1, "b")]))
    assert isinstance(error, UnavailableError)
    assert error.retry_after_s == 5
    assert deeds(fleet(stuck, desired=frozenset({"b"}))) == []


def test_place_that_this_decision_gave_away_is_not_taken_for_a_stuck_one() -> None:
    """Requests for two models may come at once, before anything runs."""
    assert deeds(fleet(waiters=[waiter(1, "a"), waiter(2, "b")])) == [Start("a")]
    stuck = instance(1, "a", State.STUCK)
    assert deeds(fleet(stuck, waiters=[waiter(1, "b"), waiter(2, "c")], max_loaded=2)) == [Start("b")]


def test_stuck_engine_leaves_the_other_places() -> None:
    stuck = instance(1, "a", State.STUCK)
    assert deeds(fleet(stuck, waiters=[waiter(1, "b")], max_loaded=2)) == [Start("b")]
    loading = instance(2, "b", State.STARTING)
    assert deeds(fleet(stuck, loading, waiters=[waiter(1, "c")], max_loaded=2)) == []


# cooling and failed


def records_after(count: int, *, apart_s: float = 30.0, **fault: Any) -> Record:
    given: dict[str, Any] = {"is_verdict": False}
    record = Record()
    for number in range(count):
        at_s = NOW_S - (count - 1 - number) * apart_s
        record = after_fault(record, Fault("it crashed", **given | fault), LIMITS, now_s=at_s)
    return record


@pytest.mark.parametrize(("faults", "pause_s"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16)])
def test_pauses_double(faults: int, pause_s: float) -> None:
    record = records_after(faults)
    assert record.cooling_until_s == NOW_S + pause_s
    assert record.failure is None
    assert deeds(fleet(desired=frozenset({"a"}), records={"a": record})) == []
    assert looks(fleet(desired=frozenset({"a"}), records={"a": record})) == NOW_S + pause_s
    later_s = NOW_S + pause_s
    assert deeds(fleet(desired=frozenset({"a"}), records={"a": record}), now_s=later_s) == [Start("a")]


def test_sixth_fault_within_ten_minutes_is_a_failure() -> None:
    record = records_after(6)
    assert record.failure is not None
    assert record.failure.can_pass
    assert "6 times in 10 minutes; last: it crashed" in record.failure.message


def test_faults_of_more_than_ten_minutes_ago_are_forgotten() -> None:
    assert records_after(8, apart_s=200).cooling_until_s == NOW_S + 4


def test_short_pause_is_waited_out() -> None:
    records = {"a": records_after(2)}
    assert deeds(fleet(waiters=[waiter(1, "a")], records=records)) == []
    assert looks(fleet(waiters=[waiter(1, "a")], records=records)) == NOW_S + 2
    assert deeds(fleet(waiters=[waiter(1, "a")], records=records), now_s=NOW_S + 2) == [Start("a")]


def test_long_pause_is_told_with_the_time_to_come_back() -> None:
    error = refusal(fleet(waiters=[waiter(1, "a")], records={"a": records_after(3)}))
    assert isinstance(error, ModelCoolingError)
    assert error.retry_after_s == 4
    assert "it crashed" in error.message


def test_cooling_model_evicts_nobody() -> None:
    state = fleet(instance(1, "b"), waiters=[waiter(1, "a")], records={"a": records_after(1)})
    assert deeds(state) == []


@pytest.mark.parametrize("can_pass", [True, False])
def test_verdict_of_the_engine_is_a_failure_at_once(can_pass: bool) -> None:
    record = records_after(1, is_verdict=True, can_pass=can_pass)
    assert record.failure == Failure(NOW_S, "it crashed", can_pass)
    error = refusal(fleet(waiters=[waiter(1, "a")], records={"a": record}))
    assert isinstance(error, ModelFailedError)
    assert "it crashed" in error.message


def test_failure_that_can_pass_is_tried_again_by_a_request_after_five_minutes() -> None:
    record = Record(failure=Failure(NOW_S, "no memory", can_pass=True))
    state = fleet(waiters=[waiter(1, "a")], records={"a": record})
    assert isinstance(refusal(state, now_s=NOW_S + 299), ModelFailedError)
    assert deeds(state, now_s=NOW_S + 300) == [Start("a")]


def test_failure_that_cannot_pass_waits_for_an_edit_or_an_admin() -> None:
    record = Record(failure=Failure(NOW_S, "bad flag", can_pass=False))
    state = fleet(waiters=[waiter(1, "a")], records={"a": record})
    assert isinstance(refusal(state, now_s=NOW_S + 1000), ModelFailedError)


def test_failed_model_is_not_started_by_wish_alone() -> None:
    record = Record(failure=Failure(LONG_AGO_S, "no memory", can_pass=True))
    assert deeds(fleet(desired=frozenset({"a"}), records={"a": record})) == []


def test_fault_of_one_instance_refuses_nobody_whom_another_serves() -> None:
    record = Record(failure=Failure(NOW_S, "no memory", can_pass=True))
    assert deeds(fleet(instance(1, "a"), waiters=[waiter(1, "a")], records={"a": record})) == [Grant(1, 1)]


# refusals


def test_deadline_ends_the_wait_wherever_it_stands() -> None:
    late = waiter(1, "a", since_s=NOW_S - 30, deadline_s=NOW_S)
    for state in (fleet(), fleet(instance(1, "a", leases=1)), fleet(instance(1, "a", State.STARTING))):
        error = refusal(replace(state, waiters=(late,)))
        assert isinstance(error, WaitTimeoutError)
        assert "30 s" in error.message


def test_deadline_is_looked_at_in_time() -> None:
    state = fleet(instance(1, "a", leases=1), waiters=[waiter(1, "a", deadline_s=NOW_S + 3)])
    assert looks(state) == NOW_S + 3


def test_model_without_a_file_says_where_to_put_it() -> None:
    models = {"a": model_spec("a", run_spec(weights=None))}
    error = refusal(fleet(waiters=[waiter(1, "a")], models=models))
    assert isinstance(error, WeightsMissingError)
    assert "models/a.gguf" in error.message
    assert deeds(fleet(models=models, desired=frozenset({"a"}))) == []


def test_model_whose_file_is_broken_is_refused_at_once_and_never_started() -> None:
    """llama-server would say less, and later."""
    models = {"a": replace(model_spec("a"), problem="a.gguf is empty; to fix: copy it again")}
    error = refusal(fleet(waiters=[waiter(1, "a")], models=models))
    assert isinstance(error, WeightsBrokenError)
    assert error.message == "the files of a cannot be used: a.gguf is empty; to fix: copy it again"
    assert deeds(fleet(models=models, desired=frozenset({"a"}))) == []


def test_model_that_runs_is_not_refused_for_what_its_file_says() -> None:
    """llama.cpp may read more than AirLab does; what serves, serves."""
    models = {"a": replace(model_spec("a"), problem="a.gguf is of version 4")}
    assert deeds(fleet(instance(1, "a"), waiters=[waiter(1, "a")], models=models)) == [Grant(1, 1)]


def test_shutdown_drains_all_and_refuses_everybody() -> None:
    state = fleet(
        instance(1, "a", leases=1),
        instance(2, "b", State.STARTING),
        waiters=[waiter(1, "a"), waiter(2, "d")],
        desired=frozenset({"c"}),
        max_loaded=4,
        shutting_down=True,
    )
    drained, stopped, *refused = deeds(state)
    assert (drained, stopped) == (Drain(1, Why.SHUTDOWN), Stop(2, Why.SHUTDOWN))
    assert [type(no.error) for no in refused if isinstance(no, Refuse)] == [DrainingError, DrainingError]


def test_shutdown_calls_nothing_back() -> None:
    state = fleet(instance(1, "a", State.DRAINING, why=Why.CHANGED, leases=1), shutting_down=True)
    assert deeds(state) == []


def test_model_whose_engine_failed_is_not_started_before_the_fault_is_booked() -> None:
    """Its instance is still on its way out; started now, a bad flag would be tried twice and a cool-down skipped."""
    failing = instance(1, "a", State.STOPPING, why=Why.FAULT)

    assert deeds(fleet(failing, waiters=[waiter(2, "a")], max_loaded=2)) == []
    assert deeds(fleet(failing, desired=frozenset("a"), max_loaded=2)) == []
    assert deeds(fleet(failing, waiters=[waiter(2, "b")], max_loaded=2)) == [Start("b")]
