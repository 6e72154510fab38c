"""Decides what the fleet does next: what to start, drain, stop, grant, refuse, and when to look again.

Pure: facts in, actions out; no clock, no process, no socket. ``fleet.py`` carries the actions out and asks again until
there are none. Waiters are served in order of arrival: one who waits for a place is not overtaken for ever.
"""

from __future__ import annotations

from pathlib import Path

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
    for waiter in fleet.waiters:
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
        self._handled: set[str] = set()
        """Keys that start, or that a place is being made for."""
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
        """Send away what is loaded beyond the limit, after an edit that lowered it; the idle ones first."""
        staying = [i for i in self._fleet.instances if i.id not in self._leaving]
        staying.sort(key=lambda i: (self._leases[i.id] > 0, i.last_used_s))
        for instance in staying[: max(0, len(staying) - self._fleet.max_loaded)]:
            self._send_away(instance, Why.EVICTED)

    def serve(self, waiter: WaiterFacts) -> None:
        """Grant, refuse, or make room and let wait."""
        error = self._refusal(waiter)
        if error is not None:
            self.actions.append(Refuse(waiter.id, error))
            return
        self.actions.append(Look(waiter.deadline_s))
        instance = self._current(waiter.key)
        if instance is None:
            self._bring_up(waiter)
        elif instance.state is State.READY and self._has_room(instance, waiter):
            self._leases[instance.id] += waiter.takes_slot
            self.actions.append(Grant(waiter.id, instance.id))

    def start_desired(self) -> None:
        """Start what should be loaded without anybody waiting, where that evicts nothing."""
        for key in sorted(self._fleet.desired - self._handled):
            spec = self._fleet.models.get(key)
            record = self._fleet.records.get(key, Record())
            if self._fleet.shutting_down or spec is None or cannot_start(spec) or record.failure is not None:
                continue
            if self._current(key) is None and self._booked(key) and self._rested(record) and self._free_places > 0:
                self._start(key)

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
        timeout_s = self._fleet.models[instance.key].section.idle_timeout
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
        return not waiter.takes_slot or self._leases[instance.id] < instance.run.slots

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
        return self._still_down(key, self._fleet.records.get(key, Record()))

    def _still_down(self, key: str, record: Record) -> AirLabError | None:
        """Why a start must not be tried now, if so."""
        failure, limits = record.failure, self._limits
        if failure is not None and not (failure.can_pass and self._now_s >= failure.at_s + limits.failed_rest_s):
            return ModelFailedError(f"{key} does not start: {failure.message}")
        rest_s = (record.cooling_until_s or self._now_s) - self._now_s
        if rest_s > limits.cooling_worth_waiting_s:
            message = f"{key} failed and is given a pause of {rest_s:.0f} s: {record.last_fault}"
            return ModelCoolingError(message, retry_after_s=rest_s)
        return None

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
        if self._free_places > 0:
            self._start(key)
        elif self._coming_places > 0:
            self._coming_places -= 1
        else:
            self._evict_for(waiter)

    def _start(self, key: str) -> None:
        self._handled.add(key)
        self._free_places -= 1
        self.actions.append(Start(key))

    def _evict_for(self, waiter: WaiterFacts) -> None:
        """Send the model away that has not been used for longest; a busy one only when this waiter waited long."""
        ready = [i for i in self._fleet.instances if i.state is State.READY and i.id not in self._leaving]
        idle = [i for i in ready if self._leases[i.id] == 0]
        victim = min(idle or ready, key=lambda i: i.last_used_s, default=None)
        patience_ends_s = waiter.since_s + self._limits.fairness_s
        if victim is None:
            self._refuse_if_stuck(waiter)
        elif self._now_s >= patience_ends_s or (idle and self._now_s >= victim.last_used_s + self._limits.quiet_s):
            self._send_away(victim, Why.EVICTED)
            self._coming_places -= 1
        else:
            quiet_s = victim.last_used_s + self._limits.quiet_s if idle else patience_ends_s
            self.actions.append(Look(min(quiet_s, patience_ends_s)))

    def _refuse_if_stuck(self, waiter: WaiterFacts) -> None:
        stuck = [i.key for i in self._fleet.instances if i.state is State.STUCK]
        if len(stuck) >= self._fleet.max_loaded:
            error = UnavailableError(
                f"no place for {waiter.key}: the engine of {', '.join(stuck)} cannot be stopped", retry_after_s=5
            )
            self.actions.append(Refuse(waiter.id, error))


def cannot_start(spec: ModelSpec, home: Path = Path()) -> WeightsBrokenError | WeightsMissingError | None:
    """Why nothing need be tried with its files as they are; None where they can be started, by all that is known."""
    if spec.problem is not None:
        return WeightsBrokenError(f"the files of {spec.key} cannot be used: {spec.problem}")
    return missing_weights(spec, home) if spec.run.weights is None and not spec.is_remote else None


def missing_weights(spec: ModelSpec, home: Path = Path()) -> WeightsMissingError:
    """The sentence for a model that is declared and not on disk; ``home`` is the manifest's folder."""
    section = spec.section
    if source := section.hf_repo or section.download_url:
        return WeightsMissingError(
            f"{spec.key} is in the manifest, but not on disk: `airlab models pull {spec.key}` downloads {source}, and "
            "so does a switch to it"
        )
    path = home / (spec.expected_file or "models")
    return WeightsMissingError(f"{spec.key} is in the manifest, but its file is not on disk: put it at {path}")
