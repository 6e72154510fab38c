"""How long somebody will wait for a model, as far as loads and requests so far tell: a guess, never a promise. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.fleet.states import ON_ITS_WAY_OUT, FleetState, InstanceFacts, State, WaiterFacts

_NEW_SHARE = 0.3
"""Weight of the newest request in the mean: the last few count most."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a model took lately."""

    load_s: float | None = None
    """Its last load."""
    held_s: float | None = None
    """A request of it, from the grant of its slot to its end: a mean in which new ones weigh most."""

    def after_load(self, took_s: float) -> Pace:
        """With one more load."""
        return replace(self, load_s=took_s)

    def after_request(self, held_s: float) -> Pace:
        """With one more request."""
        mean_s = held_s if self.held_s is None else (1 - _NEW_SHARE) * self.held_s + _NEW_SHARE * held_s
        return replace(self, held_s=mean_s)


UNKNOWN = Pace()
"""Of a model that nothing was measured of."""


def wait_s(
    fleet: FleetState, waiter: WaiterFacts, paces: Mapping[str, Pace], *, quiet_s: float, now_s: float
) -> float | None:
    """Seconds until this waiter is served; None where something that comes before was never measured.

    Models that are asked for before this one are taken to need the same place: it may come sooner.

    Args:
        fleet: Who waits, and what runs.
        waiter: One of those who wait, or the next to come.
        paces: What each model took lately.
        quiet_s: How long a model is left alone before it is evicted.
        now_s: On the clock of the fleet.
    """
    before = [other for other in fleet.waiters if other.id < waiter.id]
    own, pace = _current(fleet, waiter.key), paces.get(waiter.key, UNKNOWN)
    ahead = sum(other.key == waiter.key and other.takes_slot for other in before)
    if own is not None:
        return _on(own, ahead, pace, now_s=now_s)
    parts = [pace.load_s, _rounds(ahead // _slots(fleet, waiter.key), pace.held_s)]
    if len(fleet.instances) >= fleet.max_loaded:
        counts = Counter(other.key for other in before if other.key != waiter.key)
        parts += [_turn_of(fleet, key, count, paces, now_s=now_s) for key, count in counts.items()]
        parts.append(quiet_s * (1 + sum(_current(fleet, key) is None for key in counts)))
    return _sum(parts)


def _on(instance: InstanceFacts, ahead: int, pace: Pace, *, now_s: float) -> float | None:
    """Until an instance that is up, or comes up, has a slot for one more."""
    if instance.state is State.READY:
        return _rounds(ahead // instance.slots + 1, pace.held_s)
    rest_s = None if pace.load_s is None else max(0.0, pace.load_s - (now_s - instance.since_s))
    return _sum([rest_s, _rounds(ahead // instance.slots, pace.held_s)])


def _turn_of(fleet: FleetState, key: str, waiting: int, paces: Mapping[str, Pace], *, now_s: float) -> float | None:
    """Until another model has served those who wait for it."""
    pace, own = paces.get(key, UNKNOWN), _current(fleet, key)
    if own is not None:
        return _on(own, waiting, pace, now_s=now_s)
    return _sum([pace.load_s, _rounds(math.ceil(waiting / _slots(fleet, key)), pace.held_s)])


def _current(fleet: FleetState, key: str) -> InstanceFacts | None:
    return next((i for i in fleet.instances if i.key == key and i.state not in ON_ITS_WAY_OUT), None)


def _slots(fleet: FleetState, key: str) -> int:
    return (fleet.models[key].run.slots or 1) if key in fleet.models else 1


def _rounds(count: int, held_s: float | None) -> float | None:
    return 0.0 if count <= 0 else None if held_s is None else count * held_s


def _sum(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
