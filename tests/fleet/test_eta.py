"""How long somebody will wait, as plain calls: from loads and requests so far, or nothing where one is missing."""

from __future__ import annotations

from typing import Any

import pytest

from app.fleet import eta
from app.fleet.eta import Pace
from app.fleet.states import FleetState, InstanceFacts, State, WaiterFacts
from tests.fakes import DAY_S, model_spec, run_spec

NOW_S, QUIET_S = 1000.0, 2.0
PACES = {"a": Pace(load_s=20.0, held_s=4.0), "b": Pace(load_s=30.0, held_s=6.0)}


def instance(key: str, state: State = State.READY, **more: Any) -> InstanceFacts:
    given: dict[str, Any] = {"leases": 1, "last_used_s": NOW_S, "why": None, "slots": 2, "since_s": NOW_S - 5}
    return InstanceFacts(id=1, key=key, run=run_spec(), state=state, **given | more)


def wait_s(line: str, *instances: InstanceFacts, paces: dict[str, Pace] = PACES, max_loaded: int = 1) -> float | None:
    """For the last one of those who wait."""
    waiters = tuple(WaiterFacts(number, key, NOW_S, NOW_S + DAY_S, takes_slot=True) for number, key in enumerate(line))
    models = {key: model_spec(key, run_spec(slots=2)) for key in "abc"}
    fleet = FleetState(models, instances, waiters, {}, frozenset(), max_loaded, shutting_down=False)
    return eta.wait_s(fleet, waiters[-1], paces, quiet_s=QUIET_S, now_s=NOW_S)


@pytest.mark.parametrize(
    ("line", "seconds"),
    [("a", 20), ("aa", 20), ("aaa", 20 + 4), ("aaaaa", 20 + 2 * 4)],
)
def test_stopped_model_is_loaded_and_serves_as_many_at_once_as_it_has_slots(line: str, seconds: float) -> None:
    assert wait_s(line) == seconds


def test_load_that_has_begun_counts_with_its_rest_and_never_with_less_than_nothing() -> None:
    assert wait_s("a", instance("a", State.STARTING)) == 15
    assert wait_s("a", instance("a", State.STARTING, since_s=NOW_S - 50)) == 0


def test_busy_model_frees_a_slot_when_a_request_ends() -> None:
    assert wait_s("a", instance("a", leases=2)) == 4
    assert wait_s("aaa", instance("a", leases=2)) == 8


def test_models_before_ones_own_are_loaded_and_served_first() -> None:
    assert wait_s("aab", instance("c")) == (20 + 4) + 30 + 2 * QUIET_S
    assert wait_s("aab", instance("a", leases=2)) == (4 + 4) + 30 + QUIET_S


def test_models_before_ones_own_cost_nothing_where_there_is_a_place_for_all() -> None:
    assert wait_s("aab", instance("c"), max_loaded=3) == 30


def test_model_on_its_way_out_is_loaded_again() -> None:
    assert wait_s("a", instance("a", State.STOPPING), max_loaded=2) == 20


@pytest.mark.parametrize("paces", [{}, {"b": PACES["b"]}, {"a": Pace(load_s=20.0), "b": PACES["b"]}])
def test_nothing_is_said_where_something_was_never_measured(paces: dict[str, Pace]) -> None:
    assert wait_s("aab", instance("c"), paces=paces) is None


def test_newest_requests_weigh_most() -> None:
    pace = Pace()
    for held_s in [10.0] * 20 + [1.0] * 10:
        pace = pace.after_request(held_s)
    assert pace.held_s == pytest.approx(1.0, abs=0.5)
