"""What one decision has to work with: the fleet as it will be once the actions so far are carried out. Pure.

Here is what is so by now, and what each action changes of it: who leaves, which places and whose slots are taken, what
memory is promised to whom. What to do, and for whom first, is the business of ``decide.py``.
"""

from __future__ import annotations

from collections.abc import Collection

from app.errors import AirLabError
from app.fleet.admit import Admission
from app.fleet.evict import rivals_in
from app.fleet.fit import Fitted, Shortfall
from app.fleet.spec import ModelSpec
from app.fleet.states import (
    ON_ITS_WAY_OUT,
    Action,
    Drain,
    FleetState,
    Grant,
    InstanceFacts,
    Limits,
    Look,
    Measure,
    Record,
    Refuse,
    Start,
    State,
    Stop,
    Undrain,
    WaiterFacts,
    Why,
)


class Board:
    """One decision in the making: the facts, less what the actions so far have used up."""

    def __init__(self, fleet: FleetState, limits: Limits, *, now_s: float) -> None:
        """Begin with the facts as they are, and with no action."""
        self.fleet, self.limits, self.now_s = fleet, limits, now_s
        self.actions: list[Action] = []
        """In the order in which they are to be carried out."""
        self.admission = Admission(fleet, limits, now_s=now_s)
        """The memory, less what starts."""
        # A start takes a free place; else it waits for one that is on its way to be free.
        self.free_places = fleet.max_loaded - len(fleet.instances)
        self.coming_places = sum(i.state in {State.DRAINING, State.STOPPING} for i in fleet.instances)
        """Places that will be free, less those kept for somebody."""
        self.handled: set[str] = set()
        """Keys that start, or that a place is being made for."""
        self.waits_for_memory = False
        """Whether an earlier waiter does: then nobody behind takes what comes back."""
        self._promised: tuple[ModelSpec, Collection[int]] | None = None
        """Its model, and the instances that go for it, where that is known: what fits beside it then may start."""
        self._leaving = {i.id for i in fleet.instances if i.state in ON_ITS_WAY_OUT}
        self._leases = {i.id: i.leases for i in fleet.instances}
        self._answered: set[int] = set()
        """Waiters who were granted what they wait for, or refused it."""
        self._rivals_by_key = rivals_in(fleet.models)

    # What is so by now: of instances.

    @property
    def staying(self) -> list[InstanceFacts]:
        """The instances that are not on their way out."""
        return [i for i in self.fleet.instances if i.id not in self._leaving]

    @property
    def ready(self) -> list[InstanceFacts]:
        """Those of them that serve."""
        return [i for i in self.staying if i.state is State.READY]

    @property
    def going(self) -> set[int]:
        """The instances whose place and memory come back; what is stuck gives back nothing."""
        return {i.id for i in self.fleet.instances if i.id in self._leaving and i.state is not State.STUCK}

    def current(self, key: str) -> InstanceFacts | None:
        """The key's one instance that is not on its way out."""
        return next((i for i in self.staying if i.key == key), None)

    def is_busy(self, instance: InstanceFacts) -> bool:
        """Whether somebody has a slot of it."""
        return self._leases[instance.id] > 0

    def has_room(self, instance: InstanceFacts, waiter: WaiterFacts) -> bool:
        """Whether it can take this waiter; who only wants it loaded needs no slot."""
        return not waiter.takes_slot or self._leases[instance.id] < instance.slots

    def is_idle(self, instance: InstanceFacts) -> bool:
        """Whether it could serve, and nobody wants it."""
        is_free = not self.is_busy(instance) and not self.has_group(instance, before_s=float("inf"))
        return is_free and instance.state is State.READY and instance.id not in self._leaving

    def has_group(self, instance: InstanceFacts, *, before_s: float) -> bool:
        """Whether somebody who came before that time waits for a slot of this instance: they are served together."""
        group = (w for w in self.fleet.waiters if w.key == instance.key and w.takes_slot and w.since_s < before_s)
        return any(waiter.id not in self._answered for waiter in group)

    # What is so by now: of models.

    def record(self, key: str) -> Record:
        """What is remembered of its faults."""
        return self.fleet.records.get(key, Record())

    def faults_are_booked(self, key: str) -> bool:
        """False while an instance that failed is on its way out: its fault is known only when it is gone."""
        return not any(i.key == key and i.why is Why.FAULT for i in self.fleet.instances)

    def has_rested(self, key: str) -> bool:
        """False while the key cools down; then the decision is taken again when that is over."""
        cooling_until_s = self.record(key).cooling_until_s
        if cooling_until_s is None or cooling_until_s <= self.now_s:
            return True
        self.look(cooling_until_s)
        return False

    def rival_keys(self, key: str) -> frozenset[str]:
        """Models that may not run with this one."""
        return self._rivals_by_key.get(key, frozenset())

    def rivals(self, key: str) -> set[int]:
        """Instances, leaving ones too, beside which this model must not be started."""
        rivals = self.rival_keys(key)
        return {instance.id for instance in self.fleet.instances if instance.key in rivals}

    def follows_a_rival(self, key: str) -> bool:
        """Whether a model that may not run with this one starts, or has a place made for it, for one who came first."""
        return bool(self.rival_keys(key) & self.handled)

    # What is so by now: of memory.

    def reads_memory(self) -> bool:
        """Whether a start has to wait until memory was read anew; that is asked for where nobody has yet."""
        if self.admission.asks_to_read and not any(isinstance(action, Measure) for action in self.actions):
            self.actions.append(Measure())
        return self.admission.is_unread

    def memory_is_due(self) -> bool:
        """Whether an engine went so recently that its memory may still come back; then it is looked at again soon."""
        if self.now_s >= self.admission.due_until_s:
            return False
        self.waits_for_memory = True
        self.look(self.now_s + self.limits.memory_look_s)
        return True

    def fit(self, spec: ModelSpec) -> Fitted | Shortfall | None:
        """How it would start now, beside all that is there; None where memory is not looked at."""
        return self.admission.fit(spec, leaving=self._leaving)

    def fit_beside_the_promised(self, spec: ModelSpec) -> Fitted | None:
        """How it would start now and take nothing from the one that waits for memory; None where it would.

        None, too, where nobody knows who goes for that one.
        """
        if self._promised is None:
            return None
        first, gone = self._promised
        return self.admission.fit_beside(spec, first, gone, self._leaving)

    # What is done.

    def look(self, at_s: float) -> None:
        """Decide again at this time at the latest."""
        self.actions.append(Look(at_s))

    def grant(self, waiter: WaiterFacts, instance: InstanceFacts) -> None:
        """Give this waiter what it waits for."""
        self._leases[instance.id] += waiter.takes_slot
        self._answered.add(waiter.id)
        self.actions.append(Grant(waiter.id, instance.id))

    def refuse(self, waiter: WaiterFacts, error: AirLabError) -> None:
        """Tell this waiter no."""
        self._answered.add(waiter.id)
        self.actions.append(Refuse(waiter.id, error))

    def start(self, key: str, fitted: Fitted | None) -> None:
        """Start it in a free place, so that it fits; None where memory is not looked at."""
        self.handled.add(key)
        self.free_places -= 1
        if fitted is not None:
            self.admission.book(fitted)
        self.actions.append(Start(key, fitted))

    def send_away(self, instance: InstanceFacts, why: Why) -> None:
        """Let it finish what it has, and go."""
        # What still loads serves nobody: no need to wait for leases.
        action = Stop if instance.state is State.STARTING else Drain
        self.actions.append(action(instance.id, why))
        self._leaving.add(instance.id)
        self.coming_places += 1

    def call_back(self, instance: InstanceFacts) -> None:
        """Let it stay after all, while it still finishes what it has."""
        self.actions.append(Undrain(instance.id))
        self._leaving.discard(instance.id)
        self.coming_places -= 1

    def keep_a_place(self) -> None:
        """One that comes is for the waiter at hand, where none is free."""
        self.coming_places -= self.free_places <= 0

    def promise(self, spec: ModelSpec, gone: Collection[int]) -> None:
        """The memory of these instances is for this model; whoever starts meanwhile leaves it that."""
        self._promised = spec, gone
