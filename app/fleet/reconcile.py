"""The one writer of what runs on this host: instances, the queue, records of faults and the ledger.

It changes its state in synchronous steps on the event loop: it asks ``decide`` what follows, and carries that out until
nothing is left to do but to wait. Starting and stopping happen in tasks of the instances, which report back. Nothing in
here awaits: what callers ask for, and wait for, is the business of ``fleet.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from app.engines.base import Engine
from app.engines.command import as_written, launch_for, socket_name
from app.errors import DrainingError, EngineError, UnavailableError
from app.fleet import facts
from app.fleet.alarm import Alarm
from app.fleet.decide import decide
from app.fleet.evict import idle_timeout_s
from app.fleet.fit import Fitted
from app.fleet.instance import BecameReady, Broke, Gone, Instance, Report, broken_by_stop
from app.fleet.lease import Note, Waiter
from app.fleet.ledger import MemoryLedger
from app.fleet.logs import LastWords, LogLines
from app.fleet.memory import Budget
from app.fleet.meter import Memory
from app.fleet.paces import Paces
from app.fleet.queue import Queue
from app.fleet.records import Fault, Records
from app.fleet.roster import Roster
from app.fleet.spec import ModelSpec, with_fit
from app.fleet.states import (
    Action,
    Drain,
    FleetState,
    Forgo,
    Grant,
    Limits,
    Look,
    Measure,
    Refuse,
    Start,
    State,
    Stop,
    Undrain,
    Why,
)
from app.fleet.status import ModelStatus, status_of
from app.journal import Journal

_MOST_LOADED = 32
_NO_LONGER_DESIRED = frozenset({Why.EVICTED, Why.CRAMPED, Why.UNLOADED, Why.IDLE})
_ROUNDS = 100
"""A step settles in three or four rounds; more means that two decisions undo each other."""


class Reconciler:
    """Brings what runs here to what should, whenever either changes."""

    def __init__(
        self, engine: Engine, run_dir: Path, journal: Journal, limits: Limits, memory: Memory | None, paces: Paces
    ) -> None:
        """Wants nothing yet. Without ``memory`` none is looked at, and places alone count."""
        self.instances = Roster()
        """What runs. For others to read."""
        self.ledger = MemoryLedger(memory, self.step)
        self._engine, self._run_dir, self._journal, self._limits = engine, run_dir, journal, limits
        self._models: Mapping[str, ModelSpec] = {}
        self._max_loaded = 1
        self._queue = Queue(limits, paces)
        self._records = Records(limits)
        self._desired: set[str] = set()
        self._last_words = LastWords()
        self._shutting_down = False
        self._numbers = itertools.count(1)
        self._alarm = Alarm(self.step)

    # What should be.

    def want(self, models: Mapping[str, ModelSpec], *, max_loaded: int | None, budget: Budget) -> None:
        """These models, so many of them at once, in so much memory; a model whose run is the same keeps running."""
        for key, spec in models.items():
            before = self._models.get(key)
            if before is None or spec.run != before.run:
                self._records.forget(key)
            if spec.section.preload and not (before and before.section.preload):
                self._desired.add(key)
        self._desired &= models.keys()
        self._queue.paces.only(models)
        self._models, self._max_loaded = models, max_loaded or (_MOST_LOADED if self.ledger.is_read else 1)
        self.ledger.want(models, budget)
        self.step()

    def desire(self, key: str) -> None:
        """Keep it loaded from now on, whatever it failed of before; the next step begins with it."""
        self._records.forget(key)
        self._desired.add(key)

    def bring_back(self, key: str) -> None:
        """Keep it loaded from now on, where there is room."""
        self._desired.add(key)
        self.step()

    def spec_of(self, key: str) -> ModelSpec | None:
        """How a model that runs here should be; None where there is none of this key."""
        return self._models.get(key)

    def give_up(self, key: str) -> None:
        """Keep it loaded no more; what runs of it stays."""
        self._desired.discard(key)

    def keep_alive(self, instance: Instance, keep_alive_s: float) -> None:
        """How long it stays loaded when nobody uses it, in place of the manifest's idle_timeout."""
        instance.keep_alive_s = keep_alive_s
        self.step()

    def unload(self, key: str) -> list[Instance]:
        """Have it finish what it has, and stop it: the instances that leave.

        Who waits for this model to be loaded is told so; else that wait would start it anew.
        """
        self._desired.discard(key)
        for waiter_id in self._queue.loading(key):
            error = UnavailableError(f"{key} was unloaded before it was ready", retry_after_s=1)
            self._queue.refuse(waiter_id, error)
        instances = self.instances.of(key)
        for instance in instances:
            if instance.state is State.READY:
                self._drain(instance, Why.UNLOADED)
            elif instance.state is State.STARTING:
                self._stop(instance, Why.UNLOADED)
        self.step()
        return instances

    def shut_down(self) -> list[Instance]:
        """Take no more work, and let the open work end: the instances that leave."""
        self._shutting_down = True
        self.step()
        return [*self.instances.values()]

    def break_off(self) -> None:
        """Stop every instance now, whatever it is busy with."""
        for instance in tuple(self.instances.values()):
            self._stop(instance, Why.SHUTDOWN)

    async def close(self) -> None:
        """Let what is being read or written down end."""
        await asyncio.gather(self.ledger.close(), self._queue.paces.close())

    # Slots and the queue for them.

    def take_free(self, key: str) -> Instance | None:
        """The hot path: a slot that is free while nobody waits, without a decision."""
        instance = self.instances.ready.get(key)
        if instance is None or self._queue or instance.leases >= instance.slots:
            return None
        instance.leases += 1
        instance.last_used_s = time.monotonic()
        return instance

    def give_back(self, instance: Instance, *, held_s: float | None, keep_alive_s: float | None) -> None:
        """A slot is free again that was held so long, by a request that wants the model kept so long."""
        instance.leases -= 1
        instance.last_used_s = time.monotonic()
        if keep_alive_s is not None:
            instance.keep_alive_s = keep_alive_s
        if held_s is not None:
            self._queue.paces.served(instance.spec.key, held_s)
        if not instance.was_used:
            instance.was_used = True
            self.ledger.measure(instance)
        if self._queue or instance.state is State.DRAINING or self._idles_unwatched(instance):
            self.step()

    def enter(self, key: str, *, deadline_s: float, takes_slot: bool, note: Note | None, evicts: bool) -> Waiter:
        """Stand at the end of the queue; the answer comes as ``granted`` of the waiter.

        Raises:
            QueueFullError: As many as may wait for this model do.
        """
        waiter = Waiter(next(self._numbers), key, time.monotonic(), deadline_s, takes_slot, note, evicts)
        self._queue.enter(waiter, self._facts)
        self.step()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Stand in it no longer, where one was neither granted nor refused."""
        if self._queue.leave(waiter):
            self.step()

    def status(self) -> dict[str, ModelStatus]:
        """How every model is now."""
        return {key: self._status_of(key) for key in self._models}

    def log_of(self, key: str) -> LogLines:
        """What the model's engine wrote last, whether it still runs or not."""
        return self._last_words.of(key, self.instances.of(key))

    # Deciding and carrying out.

    def step(self) -> None:
        """Decide and carry out until nothing is left to do but to wait."""
        for _ in range(_ROUNDS):
            actions = decide(self._facts(), self._limits, now_s=time.monotonic())
            looks = [action.at_s for action in actions if isinstance(action, Look)]
            if len(looks) == len(actions):
                self._alarm.set(min(looks, default=None))
                self._queue.tell(self._facts, lambda key: self._status_of(key).state, now_s=time.monotonic())
                return
            for action in actions:
                self._carry_out(action)
        raise RuntimeError(f"the fleet does not settle: {self._facts()}")

    def _facts(self) -> FleetState:
        return FleetState(
            models=self._models,
            instances=tuple(
                replace(instance.facts, booking=self.ledger.booking(instance)) for instance in self.instances.values()
            ),
            waiters=self._queue.facts,
            records=self._records.by_key,
            desired=frozenset(self._desired),
            max_loaded=self._max_loaded,
            shutting_down=self._shutting_down,
            memory=self.ledger.state(now_s=time.monotonic()),
        )

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start(key, fitted):
                self._start(self._models[key], fitted)
            case Measure():
                asked = {waiter.key for waiter in self._queue.facts} | self._desired
                self.ledger.read(self.instances.values(), [self._models[key] for key in asked if key in self._models])
            case Forgo(key, message):
                self._desired.discard(key)
                self._journal.note(facts.ModelDoesNotFit(key, message))
            case Drain(number, why):
                self._drain(self.instances[number], why)
            case Undrain(number):
                self.instances.move(self.instances[number], State.READY, None)
                self.instances[number].settled.set()
            case Stop(number, why):
                self._stop(self.instances[number], why)
            case Grant(waiter_id, number):
                instance = self.instances[number]
                if self._queue.grant(waiter_id, instance):
                    instance.leases += 1
                    instance.last_used_s = time.monotonic()
            case Refuse(waiter_id, error):
                self._queue.refuse(waiter_id, error)
            case Look():
                pass

    def _start(self, spec: ModelSpec, fitted: Fitted | None) -> None:
        number = next(self._numbers)
        fit = fitted.fit if fitted else None
        try:
            socket = self._run_dir / socket_name(number, spec.key)
            settled = with_fit(spec, fit or as_written(spec.run))
            launch = launch_for(spec.key, settled.run, socket=socket, environment=os.environ, fit=fit)
        except EngineError as exc:
            self._records.forget(spec.key)
            self._records.add(spec.key, Fault(exc.message, is_verdict=True, can_pass=False), now_s=time.monotonic())
            self._desired.discard(spec.key)
            return
        self._records.tried_again(spec.key)
        instance = Instance(number, settled, self._engine, launch, self._limits, self._heard)
        instance.wanted, instance.fitted = spec.run, fitted
        self.instances.add(instance)
        if fitted is not None and fitted.warning is not None:
            self._journal.note(facts.MemoryIsTight(spec.key, fitted.warning))
        self._journal.note(facts.ModelStarting(spec.key, number))

    def _drain(self, instance: Instance, why: Why) -> None:
        if why in _NO_LONGER_DESIRED:
            self._desired.discard(instance.spec.key)
        self.instances.move(instance, State.DRAINING, why)
        instance.settled.clear()
        self._journal.note(facts.ModelLeaving(instance.spec.key, instance.id, why))

    def _stop(self, instance: Instance, why: Why) -> None:
        if instance.state in {State.STOPPING, State.STUCK}:
            return
        self.instances.move(instance, State.STOPPING, why)
        if why is Why.SHUTDOWN:
            instance.stop(DrainingError("AirLab is shutting down", retry_after_s=5))
        else:
            instance.stop(broken_by_stop(instance))

    def _heard(self, instance: Instance, report: Report) -> None:
        """An instance's report: the one way in which processes change the fleet's state."""
        key = instance.spec.key
        match report:
            case BecameReady(took_s):
                instance.last_used_s, instance.load_s = time.monotonic(), took_s
                self._queue.paces.loaded(key, took_s)
                self._records.loaded(key)
                self.instances.move(instance, State.READY, None)
                self.ledger.came()
                self._journal.note(facts.ModelReady(key, instance.id, took_s, instance.pid, instance.container))
                if instance.draft_is_unused:
                    self._journal.note(facts.DraftModelUnused(key, instance.id))
            case Broke(fault):
                instance.fault = fault
                self._journal.note(facts.ModelBroke(key, instance.id, fault.message))
                self._stop(instance, Why.FAULT)
            case Gone():
                self._bury(instance)
            case _:
                self.instances.move(instance, State.STUCK, instance.why)
                instance.settled.set()
                self._journal.note(facts.ModelStuck(key, instance.id, instance.pid, instance.container))
        self.step()

    def _bury(self, instance: Instance) -> None:
        key = instance.spec.key
        self.instances.remove(instance)
        self._last_words.keep(instance)
        self.ledger.went()
        spec = self._models.get(key)
        # The fault of a run that an edit replaced meanwhile says nothing of its successor.
        if instance.fault is not None and spec is not None and spec.run == instance.wanted:
            fitted, others = instance.fitted, len(self.instances)
            self._records.add(key, instance.fault, now_s=time.monotonic(), fitted=fitted, others=others)
        self._journal.note(facts.ModelStopped(key, instance.id, instance.why or ""))

    def _idles_unwatched(self, instance: Instance) -> bool:
        """Whether the end of its idle time comes before the next look."""
        spec = self._models.get(instance.spec.key)
        timeout_s = None if spec is None else idle_timeout_s(spec, instance.keep_alive_s)
        if timeout_s is None or instance.leases:
            return False
        return not self._alarm.rings_by(instance.last_used_s + timeout_s)

    def _status_of(self, key: str) -> ModelStatus:
        return status_of(
            self.instances.of(key),
            self._records.of(key),
            slots=(self._models[key].run.slots or 0) if key in self._models else 0,
            waiting=self._queue.waiting_for(key),
            now_s=time.monotonic(),
        )
