"""What is remembered of faults, where a fault has a budget of its own, or comes in a row."""

from __future__ import annotations

from app.fleet.records import Fault, after_fault, after_load
from app.fleet.states import Limits, Record

LIMITS = Limits()
STALL = Fault("nothing moved for 120 s while it loaded", is_verdict=False, stalled_load=True)


def test_fault_with_a_budget_of_its_own_is_given_up_sooner() -> None:
    """Memory that was too small twice is too small."""
    fault = Fault("its memory was used up", is_verdict=False, most=2)
    once = after_fault(Record(), fault, LIMITS, now_s=100.0)
    twice = after_fault(once, fault, LIMITS, now_s=130.0)

    assert (once.failure, once.cooling_until_s) == (None, 101.0)
    assert twice.failure is not None
    assert twice.failure.message == "it failed 2 times in 10 minutes; last: its memory was used up"


def test_budget_of_its_own_is_never_larger_than_that_of_all() -> None:
    record = Record()
    for second in range(6):
        record = after_fault(record, Fault("it crashed", is_verdict=False, most=99), LIMITS, now_s=float(second))

    assert record.failure is not None


def test_faults_that_are_long_past_do_not_count() -> None:
    fault = Fault("its memory was used up", is_verdict=False, most=2)
    once = after_fault(Record(), fault, LIMITS, now_s=100.0)

    assert after_fault(once, fault, LIMITS, now_s=800.0).failure is None


def test_second_load_in_a_row_that_stalls_is_the_last_however_long_each_took() -> None:
    """Two minutes of nothing, five times in ten minutes, is a budget that nobody could ever use up."""
    once = after_fault(Record(), STALL, LIMITS, now_s=1000.0)
    twice = after_fault(once, STALL, LIMITS, now_s=1000.0 + 2 * LIMITS.budget_window_s)

    assert (once.failure, once.cooling_until_s) == (None, 1001.0)
    assert twice.failure is not None
    assert twice.failure.can_pass, "a network drive may be back in five minutes"
    assert twice.failure.message == (
        "it stalled 2 times in a row while it loaded; last: nothing moved for 120 s while it loaded"
    )


def test_load_that_succeeds_or_another_fault_ends_the_row() -> None:
    once = after_fault(Record(), STALL, LIMITS, now_s=1000.0)
    crashed = after_fault(once, Fault("it crashed", is_verdict=False), LIMITS, now_s=1010.0)

    for between in (after_load(once), crashed):
        assert after_fault(between, STALL, LIMITS, now_s=1200.0).failure is None
