"""What is remembered of a model's faults: cool-downs that double, a budget, loads that stalled in a row, less memory.

Pure, but for remembering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from app.fleet.fit import Fitted
from app.fleet.memory import Cramped
from app.fleet.states import Failure, Limits, Record


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong with one instance."""

    message: str
    is_verdict: bool
    """True where llama-server itself said no while it loaded: trying the same again at once cannot help."""
    can_pass: bool = True
    """False for a bad flag or a broken file, which only an edit or an admin can mend."""
    most: int | None = None
    """So many faults are too many, where that is fewer than the budget of restarts."""
    stalled: bool = False
    """Whether it ran, and did nothing."""
    stalled_load: bool = False
    """Whether nothing moved while it loaded."""
    ran_out: Literal["GPU", "host"] | None = None
    """Whose memory was used up while it loaded, if that was it."""


class Records:
    """The records of all models. Changed by the fleet alone."""

    def __init__(self, limits: Limits) -> None:
        """Nothing went wrong yet."""
        self.by_key: dict[str, Record] = {}
        """Of the models of which anything is remembered. For others to read."""
        self._limits = limits

    def of(self, key: str) -> Record:
        """What is remembered of a model; an empty record where that is nothing."""
        return self.by_key.get(key, Record())

    def forget(self, key: str) -> None:
        """The model begins anew."""
        self.by_key.pop(key, None)

    def add(self, key: str, fault: Fault, *, now_s: float, fitted: Fitted | None = None, others: int = 0) -> None:
        """One more fault of it; as for ``after_fault``."""
        self.by_key[key] = after_fault(self.of(key), fault, self._limits, now_s=now_s, fitted=fitted, others=others)

    def tried_again(self, key: str) -> None:
        """It is being started: a failure that is tried again is a failure no more."""
        if self.of(key).failure is not None:
            self.forget(key)

    def loaded(self, key: str) -> None:
        """It is ready."""
        if key in self.by_key:
            self.by_key[key] = after_load(self.by_key[key])


def after_fault(
    record: Record, fault: Fault, limits: Limits, *, now_s: float, fitted: Fitted | None = None, others: int = 0
) -> Record:
    """The record with one more fault: cooling, or failed when it is a verdict or the budget of restarts is spent.

    A load that stalls takes minutes in which nobody else can have the place, so the window of the budget never sees
    enough of them: they are counted in a row instead, however long they took.

    Args:
        record: What was remembered before.
        fault: The fault.
        limits: The fleet's numbers.
        now_s: On the monotonic clock.
        fitted: How the instance had been made to fit, where memory is looked at.
        others: Engines that were there beside it.
    """
    recent = (*(at_s for at_s in record.failures_s if at_s > now_s - limits.budget_window_s), now_s)
    stalled = record.stalled_loads + 1 if fault.stalled_load else 0
    base = replace(record, failures_s=recent, last_fault=fault.message, stalled_loads=stalled)
    if fault.ran_out is not None:
        takes, room = (fitted.estimate.takes, fitted.room) if fitted else ({}, {})
        base = replace(base, cramped=Cramped(fault.ran_out, takes, others, now_s, room))
    if fault.is_verdict:
        return replace(base, cooling_until_s=None, failure=Failure(now_s, fault.message, fault.can_pass))
    if stalled >= limits.stalled_loads:
        message = f"it stalled {stalled} times in a row while it loaded; last: {fault.message}"
        return replace(base, cooling_until_s=None, failure=Failure(now_s, message, can_pass=True))
    if len(recent) >= min(fault.most or len(limits.cooling_s) + 1, len(limits.cooling_s) + 1):
        message = f"it failed {len(recent)} times in {limits.budget_window_s / 60:.0f} minutes; last: {fault.message}"
        return replace(base, cooling_until_s=None, failure=Failure(now_s, message, can_pass=True))
    return replace(base, cooling_until_s=now_s + limits.cooling_s[len(recent) - 1], failure=None)


def after_load(record: Record) -> Record:
    """The record of a model that is ready: its loads do not stall."""
    return replace(record, stalled_loads=0)


def still_cramped(record: Record | None, room: Mapping[str, int], limits: Limits, *, now_s: float) -> Cramped | None:
    """What the last start ran out of, where the next one has to do better; None once it may be tried in full again.

    That is after ``limits.cramped_s``, since others may have left meanwhile; sooner where there is clearly more room,
    but not while the budget of restarts remembers the fault: a second one would then make the model fail.

    Args:
        record: What is remembered of the model.
        room: Bytes that the next start could have, by device.
        limits: The fleet's numbers.
        now_s: On the monotonic clock.
    """
    cramped = record.cramped if record else None
    if cramped is None:
        return None
    age_s = now_s - cramped.at_s
    is_past = age_s >= limits.cramped_s or (age_s >= limits.budget_window_s and cramped.has_more_in(room))
    return None if is_past else cramped
