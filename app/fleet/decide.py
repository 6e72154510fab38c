"""Decides what the fleet does next: what to start, drain, stop, grant, refuse, and when to look again.

Pure: facts in, actions out; no clock, no process, no socket. ``reconcile.py`` carries the actions out and asks again
until there are none. Waiters of one model are served in order of arrival, and models in the order of those who waited
for them first: A B C A B C runs as A A B B C C. One who waits for a place, or for memory, is overtaken only by those
who came before their patience ended (``Limits.fairness_s``). Those whose model stalled at its last load count as come
when it did: who held the place for nothing goes to the end of the line. Whether a model fits is asked of ``admit.py``,
who goes for it of ``evict.py``, why one is not even tried of ``refusals.py``.
"""

from __future__ import annotations

from collections.abc import Collection

from app.errors import (
    AirLabError,
    DoesNotFitError,
    DrainingError,
    ModelNotFoundError,
    UnavailableError,
    WaitTimeoutError,
)
from app.fleet.admit import Admission
from app.fleet.evict import fewest, idle_timeout_s, in_order, rivals_in
from app.fleet.fit import Fitted, Shortfall
from app.fleet.records import still_cramped
from app.fleet.refusals import cannot_start, nobody_can_go, still_down
from app.fleet.spec import ModelSpec
from app.fleet.states import (
    ON_ITS_WAY_OUT,
    Action,
    Drain,
    FleetState,
    Forgo,
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

_MAY_COME_BACK = frozenset({Why.CHANGED, Why.REMOVED, Why.UNLOADED})


def decide(fleet: FleetState, limits: Limits, *, now_s: float) -> list[Action]:
    """The actions that this state of the fleet asks for now; none when all is as it should be but for waiting."""
    decision = _Decision(fleet, limits, now_s)
    for instance in fleet.instances:
        decision.settle(instance)
    decision.shed()
    for waiter in sorted(fleet.waiters, key=decision.came_s):
        decision.serve(waiter)
    decision.start_desired()
    return decision.actions


class _Decision:
    """One decision in the making: the facts, less what the actions so far have used up."""

    def __init__(self, fleet: FleetState, limits: Limits, now_s: float) -> None:
        self.actions: list[Action] = []
        self._fleet, self._limits, self._now_s = fleet, limits, now_s
        self._leaving = {i.id for i in fleet.instances if i.state in ON_ITS_WAY_OUT}
        self._leases = {i.id: i.leases for i in fleet.instances}
        self._answered: set[int] = set()
        """Waiters who were granted what they wait for."""
        self._handled: set[str] = set()
        """Keys that start, or that a place is being made for."""
        self._admission = Admission(fleet, limits, now_s=now_s)
        self._rivals_by_key = rivals_in(fleet.models)
        self._waits_for_memory = False
        """Whether an earlier waiter does: then nobody behind takes what comes back."""
        self._promised: tuple[ModelSpec, Collection[int]] | None = None
        """Its model, and the instances that go for it, where that is known: what fits beside it then may start."""
        # A start takes a free place; else it waits for one that is on its way to be free.
        self._free_places = fleet.max_loaded - len(fleet.instances)
        self._coming_places = sum(i.state in {State.DRAINING, State.STOPPING} for i in fleet.instances)

    def settle(self, instance: InstanceFacts) -> None:
        """What an instance should do whoever waits: leave when it is not wanted as it is, come back when it is."""
        why = self._unwanted(instance)
        if instance.state is State.DRAINING:
            if why is None and instance.why in _MAY_COME_BACK and self._wanted_again(instance):
                self.actions.append(Undrain(instance.id))
                self._leaving.discard(instance.id)
                self._coming_places -= 1
            elif instance.leases == 0:
                self.actions.append(Stop(instance.id, instance.why or Why.CHANGED))
        elif why is not None and instance.state in {State.STARTING, State.READY}:
            self._send_away(instance, why)
        elif instance.state is State.READY:
            self._settle_idle(instance)

    def shed(self) -> None:
        """Send away what is loaded beyond the limit, or beside a rival, after an edit; the idle ones first."""
        staying = [i for i in self._fleet.instances if i.id not in self._leaving]
        pinned = {key for key, spec in self._fleet.models.items() if spec.section.pin}
        staying.sort(key=lambda i: (i.key in pinned, self._leases[i.id] > 0, i.last_used_s))
        kept: set[str] = set()
        for instance in reversed(staying):
            if len(kept) >= self._fleet.max_loaded or self._rival_keys(instance.key) & kept:
                self._send_away(instance, Why.EVICTED)
            else:
                kept.add(instance.key)

    def came_s(self, waiter: WaiterFacts) -> float:
        """When it counts as come: who waited for a load that stalled is behind those who waited for its place."""
        record = self._fleet.records.get(waiter.key)
        stalled_s = record.failures_s[-1] if record is not None and record.stalled_loads else waiter.since_s
        return max(waiter.since_s, stalled_s)

    def serve(self, waiter: WaiterFacts) -> None:
        """Grant, refuse, or make room and let wait."""
        error = self._refusal(waiter)
        if error is not None:
            self._answered.add(waiter.id)
            self.actions.append(Refuse(waiter.id, error))
            return
        self.actions.append(Look(waiter.deadline_s))
        instance = self._current(waiter.key)
        if instance is None:
            self._bring_up(waiter)
        elif instance.state is State.READY and self._has_room(instance, waiter):
            self._leases[instance.id] += waiter.takes_slot
            self._answered.add(waiter.id)
            self.actions.append(Grant(waiter.id, instance.id))

    def start_desired(self) -> None:
        """Start what should be loaded without anybody waiting, where that evicts nothing."""
        for key in sorted(self._fleet.desired - self._handled):
            spec = self._fleet.models.get(key)
            record = self._fleet.records.get(key, Record())
            if self._fleet.shutting_down or spec is None or cannot_start(spec) or record.failure is not None:
                continue
            has_place = self._free_places > 0 and not self._rivals(key) and not self._follows_a_rival(key)
            if self._current(key) is None and self._booked(key) and self._rested(record) and has_place:
                self._start_if_it_fits(spec)

    def _unwanted(self, instance: InstanceFacts) -> Why | None:
        if self._fleet.shutting_down:
            return Why.SHUTDOWN
        spec = self._fleet.models.get(instance.key)
        if spec is None:
            return Why.REMOVED
        return None if spec.run == instance.run else Why.CHANGED

    def _wanted_again(self, instance: InstanceFacts) -> bool:
        current = self._current(instance.key)
        if current is not None and current.run == instance.run:
            return False
        # An edit that was taken back needs nobody waiting; an unloaded model comes back for a request only.
        return instance.why is not Why.UNLOADED or any(w.key == instance.key for w in self._fleet.waiters)

    def _send_away(self, instance: InstanceFacts, why: Why) -> None:
        # What still loads serves nobody: no need to wait for leases.
        action = Stop if instance.state is State.STARTING else Drain
        self.actions.append(action(instance.id, why))
        self._leaving.add(instance.id)
        self._coming_places += 1

    def _settle_idle(self, instance: InstanceFacts) -> None:
        timeout_s = idle_timeout_s(self._fleet.models[instance.key], instance.keep_alive_s)
        if timeout_s is None or instance.leases or any(w.key == instance.key for w in self._fleet.waiters):
            return
        if instance.last_used_s + timeout_s <= self._now_s:
            self._send_away(instance, Why.IDLE)
        else:
            self.actions.append(Look(instance.last_used_s + timeout_s))

    def _current(self, key: str) -> InstanceFacts | None:
        """The key's one instance that is not on its way out."""
        return next((i for i in self._fleet.instances if i.key == key and i.id not in self._leaving), None)

    def _has_room(self, instance: InstanceFacts, waiter: WaiterFacts) -> bool:
        return not waiter.takes_slot or self._leases[instance.id] < instance.slots

    def _refusal(self, waiter: WaiterFacts) -> AirLabError | None:
        key, spec = waiter.key, self._fleet.models.get(waiter.key)
        if self._fleet.shutting_down:
            return DrainingError("AirLab is shutting down and takes no more requests", retry_after_s=5)
        if spec is None:
            return ModelNotFoundError(f"the model {key} was removed from the manifest")
        if waiter.deadline_s <= self._now_s:
            return WaitTimeoutError(f"{key} was not free in time ({waiter.deadline_s - waiter.since_s:.0f} s)")
        if self._current(key) is not None:
            return None
        if (error := cannot_start(spec)) is not None:
            return error
        return still_down(key, self._fleet.records.get(key, Record()), self._limits, now_s=self._now_s)

    def _booked(self, key: str) -> bool:
        """False while an instance that failed is on its way out: its fault is known only when it is gone."""
        return not any(i.key == key and i.why is Why.FAULT for i in self._fleet.instances)

    def _rested(self, record: Record) -> bool:
        """False while the key cools down; then the decision is taken again when that is over."""
        if record.cooling_until_s is None or record.cooling_until_s <= self._now_s:
            return True
        self.actions.append(Look(record.cooling_until_s))
        return False

    def _bring_up(self, waiter: WaiterFacts) -> None:
        key = waiter.key
        if key in self._handled or not self._booked(key) or not self._rested(self._fleet.records.get(key, Record())):
            return
        self._handled.add(key)
        if self._follows_a_rival(key) or self._reads_memory():
            return
        spec = self._fleet.models[key]
        if self._waits_for_memory:
            self._start_beside_the_promised(spec)
            return
        alone = self._admission.fit_alone(spec)
        if isinstance(alone, Shortfall):
            if not self._memory_is_due():
                self.actions.append(Refuse(waiter.id, DoesNotFitError(alone.message)))
            return
        fitted = self._admission.fit(spec, leaving=self._leaving)
        if waiter.evicts and self._makes_room_after_all(key, fitted):
            return
        rivals = self._rivals(key)
        if self._free_places > 0 and not isinstance(fitted, Shortfall) and not rivals:
            self._start(key, fitted)
            return
        self._waits_for_memory = isinstance(fitted, Shortfall)
        coming = {i.id for i in self._fleet.instances if i.id in self._leaving and i.state is not State.STUCK}
        if self._free_places + self._coming_places > 0 and rivals <= coming and self._admission.fits(spec, coming):
            self._coming_places -= self._free_places <= 0
            self._promised = spec, coming
        elif waiter.evicts:
            self._evict_for(waiter, spec, coming)
        else:
            because = f"it may not run with {self._named(rivals)}" if rivals else "every place is taken"
            because = fitted.message if isinstance(fitted, Shortfall) else because
            message = f"{key} cannot be loaded beside what is loaded: {because}"
            self.actions.append(Refuse(waiter.id, UnavailableError(message, retry_after_s=5)))

    def _makes_room_after_all(self, key: str, fitted: Fitted | Shortfall | None) -> bool:
        """Whether the start after one that ran out of memory waits for an idle model to go, as it cannot be smaller.

        One that was there beside it is enough: then there is more than there was.
        """
        room = fitted.room if isinstance(fitted, Fitted) else {}
        cramped = still_cramped(self._fleet.records.get(key), room, self._limits, now_s=self._now_s)
        if cramped is None or (isinstance(fitted, Fitted) and fitted.shrunk):
            return False
        others = [i for i in self._fleet.instances if i.key != key]
        if len(others) < cramped.others or not others:
            return False
        goes = any(i.id in self._leaving and i.state is not State.STUCK and not self._leases[i.id] for i in others)
        going = in_order([i for i in others if self._is_idle(i)], self._fleet.models, now_s=self._now_s)
        if going and not goes:
            self._send_away(going[0], Why.CRAMPED)
        # What comes back is for this one.
        self._waits_for_memory = goes or bool(going)
        return self._waits_for_memory

    def _reads_memory(self) -> bool:
        """Whether a start has to wait until memory was read anew."""
        if self._admission.asks_to_read and not any(isinstance(action, Measure) for action in self.actions):
            self.actions.append(Measure())
        return self._admission.is_unread

    def _memory_is_due(self) -> bool:
        """Whether an engine went so recently that its memory may still come back; then it is looked at again soon."""
        if self._now_s >= self._admission.due_until_s:
            return False
        self._waits_for_memory = True
        self.actions.append(Look(self._now_s + self._limits.memory_look_s))
        return True

    def _start_if_it_fits(self, spec: ModelSpec) -> None:
        """A wish: it takes nothing away from anybody, and waits for room that may come."""
        if self._reads_memory():
            return
        if self._waits_for_memory:
            self._start_beside_the_promised(spec)
            return
        fitted = self._admission.fit(spec, leaving=self._leaving)
        if not isinstance(fitted, Shortfall):
            self._start(spec.key, fitted)
        elif isinstance(alone := self._admission.fit_alone(spec), Shortfall) and not self._memory_is_due():
            self.actions.append(Forgo(spec.key, alone.message))

    def _start_beside_the_promised(self, spec: ModelSpec) -> None:
        """Start it although an earlier one waits for memory, where that one loses nothing by it.

        That one may wait for minutes, until a busy model has finished. Whoever goes for it leaves it a place, too.
        """
        if self._promised is None or self._free_places <= 0 or self._rivals(spec.key):
            return
        first, gone = self._promised
        fitted = self._admission.fit_beside(spec, first, gone, self._leaving)
        if fitted is not None:
            self._start(spec.key, fitted)

    def _start(self, key: str, fitted: Fitted | None) -> None:
        self._handled.add(key)
        self._free_places -= 1
        if fitted is not None:
            self._admission.book(fitted)
        self.actions.append(Start(key, fitted))

    def _evict_for(self, waiter: WaiterFacts, spec: ModelSpec, coming: set[int]) -> None:
        """Send idle models away that were not used for longest; busy ones only when this waiter waited long."""
        ready = [i for i in self._fleet.instances if i.state is State.READY and i.id not in self._leaving]
        idle = [i for i in ready if self._is_idle(i)]
        places, rivals = self._free_places + self._coming_places, self._rivals(spec.key)

        def enough(gone: Collection[int]) -> bool:
            rests = coming | set(gone)
            return places + len(gone) > 0 and rivals <= rests and self._admission.fits(spec, rests)

        def ordered(candidates: list[InstanceFacts]) -> list[InstanceFacts]:
            return in_order(candidates, self._fleet.models, now_s=self._now_s)

        patience_ends_s = self.came_s(waiter) + self._limits.fairness_s
        idle_victims = fewest(ordered(idle), enough)
        victims = idle_victims or fewest([*ordered(idle), *ordered([i for i in ready if i not in idle])], enough)
        if victims is None:
            self._refuse_if_nobody_can_go(waiter, ready)
            return
        self._promised = spec, coming | {victim.id for victim in victims}
        quiet_s = max(i.last_used_s for i in victims) + self._limits.quiet_s
        if self._now_s >= patience_ends_s and any(self._group(i, before_s=patience_ends_s) for i in victims):
            return  # they came in time to be served together; each grant is followed by another decision
        if self._now_s >= patience_ends_s or (idle_victims and self._now_s >= quiet_s):
            for victim in victims:
                self._send_away(victim, Why.EVICTED)
            self._coming_places -= self._free_places <= 0
        else:
            self.actions.append(Look(min(quiet_s, patience_ends_s) if idle_victims else patience_ends_s))

    def _is_idle(self, instance: InstanceFacts) -> bool:
        """Whether it could serve, and nobody wants it."""
        is_free = self._leases[instance.id] == 0 and not self._group(instance, before_s=float("inf"))
        return is_free and instance.state is State.READY and instance.id not in self._leaving

    def _group(self, instance: InstanceFacts, *, before_s: float) -> bool:
        """Whether somebody who came before that time waits for a slot of this instance: they are served together."""
        group = (w for w in self._fleet.waiters if w.key == instance.key and w.takes_slot and w.since_s < before_s)
        return any(waiter.id not in self._answered for waiter in group)

    def _rivals(self, key: str) -> set[int]:
        """Instances, leaving ones too, beside which this model must not be started."""
        rivals = self._rival_keys(key)
        return {instance.id for instance in self._fleet.instances if instance.key in rivals}

    def _follows_a_rival(self, key: str) -> bool:
        """Whether a model that may not run with this one starts, or has a place made for it, for one who came first."""
        return bool(self._rival_keys(key) & self._handled)

    def _rival_keys(self, key: str) -> frozenset[str]:
        return self._rivals_by_key.get(key, frozenset())

    def _named(self, instances: Collection[int]) -> str:
        return ", ".join(sorted({i.key for i in self._fleet.instances if i.id in instances}))

    def _refuse_if_nobody_can_go(self, waiter: WaiterFacts, ready: list[InstanceFacts]) -> None:
        """What is stuck or pinned makes no room, however long one waits; what still loads does, once it is idle."""
        rivals = self._rivals(waiter.key)
        in_the_way = [i for i in self._fleet.instances if i.id in rivals] or self._fleet.instances
        stuck = [i.key for i in in_the_way if i.state is State.STUCK]
        pinned = [i.key for i in ready if i in in_the_way and self._fleet.models[i.key].section.pin]
        starts = any(isinstance(action, Start) for action in self.actions)
        all_stay = len(stuck + pinned) == len(self._fleet.instances) and not starts
        if stuck + pinned and (rivals or all_stay):
            error = nobody_can_go(waiter.key, stuck, pinned, is_rival=bool(rivals))
            self.actions.append(Refuse(waiter.id, error))
