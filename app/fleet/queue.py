"""Those who wait for a model, in the order in which they came, and what they are told. Changed by the fleet alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from app.errors import AirLabError, QueueFullError
from app.fleet.instance import Instance
from app.fleet.lease import Waiter, Waiting
from app.fleet.paces import Paces
from app.fleet.states import FleetState, Limits, State, WaiterFacts


class Queue:
    """The waiters of one fleet."""

    def __init__(self, limits: Limits, paces: Paces) -> None:
        """Nobody waits yet."""
        self.paces = paces
        """What was measured of loads and requests, which tells how long somebody will wait."""
        self._limits = limits
        self._waiters: dict[int, Waiter] = {}

    def __bool__(self) -> bool:
        """True while somebody waits."""
        return bool(self._waiters)

    @property
    def facts(self) -> tuple[WaiterFacts, ...]:
        """What a decision may look at."""
        return tuple(waiter.facts for waiter in self._waiters.values())

    def waiting_for(self, key: str) -> int:
        """How many wait for this model."""
        return sum(waiter.key == key for waiter in self._waiters.values())

    def loading(self, key: str) -> list[int]:
        """Those who wait for this model to be loaded, and for no slot of it."""
        return [waiter.id for waiter in self._waiters.values() if waiter.key == key and not waiter.takes_slot]

    def enter(self, waiter: Waiter, fleet: Callable[[], FleetState]) -> None:
        """Stand at its end.

        Raises:
            QueueFullError: As many as may wait for this model's slots do; it says when to come back.
        """
        ahead = sum(1 for other in self._waiters.values() if other.key == waiter.key and other.takes_slot)
        if waiter.takes_slot and ahead >= self._limits.queue:
            retry_after_s = self.paces.come_back_s(fleet(), waiter.facts, now_s=waiter.since_s)
            raise QueueFullError(f"{ahead} requests wait for {waiter.key} already", retry_after_s=retry_after_s)
        self._waiters[waiter.id] = waiter

    def leave(self, waiter: Waiter) -> bool:
        """Stand in it no longer; False where one was granted or refused already."""
        return self._waiters.pop(waiter.id, None) is not None

    def grant(self, waiter_id: int, instance: Instance) -> bool:
        """Hand an instance to one of them; True when a slot of it is taken by that."""
        waiter = self._waiters.pop(waiter_id)
        if waiter.granted.done():
            return False  # it was cancelled in this very turn of the loop
        waiter.granted.set_result(instance)
        return waiter.takes_slot

    def refuse(self, waiter_id: int, error: AirLabError) -> None:
        """End the wait of one of them with an error."""
        waiter = self._waiters.pop(waiter_id)
        if not waiter.granted.done():
            waiter.granted.set_exception(error)

    def tell(self, fleet: Callable[[], FleetState], state_of: Callable[[str], State], *, now_s: float) -> None:
        """Say to each of them what is waited for, and how long it may take, where that is news."""
        ahead: dict[str, int] = {}
        for waiter in self._waiters.values():
            before = ahead.get(waiter.key, 0)
            ahead[waiter.key] = before + 1
            waiting = Waiting(waiter.key, state_of(waiter.key), before)
            if waiter.is_news(waiting):
                waiter.tell(replace(waiting, eta_s=self.paces.eta_s(fleet(), waiter.facts, now_s=now_s)))
