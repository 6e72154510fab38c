"""What is remembered of faults, where a fault has a budget of its own."""

from __future__ import annotations

from app.fleet.records import Fault, after_fault
from app.fleet.states import Limits, Record

LIMITS = Limits()


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
