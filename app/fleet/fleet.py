"""Owns instances, leases and the queue: which models are up, and who may use them.

The one writer of all of it. It changes its state in synchronous steps on the event loop, asks ``decide`` what follows,
and carries that out; starting and stopping happen in tasks of the instances, which report back. Ask for an outcome
here; never read a state to decide on a start or a stop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.engines.base import Engine
from app.engines.command import as_written, launch_for, socket_name
from app.errors import AirLabError, DrainingError, EngineError, UnavailableError
from app.fleet import facts
from app.fleet.decide import decide
from app.fleet.evict import idle_timeout_s
from app.fleet.fit import Fitted
from app.fleet.instance import BecameReady, Broke, Gone, Instance, Report, broken_by_stop
from app.fleet.lease import Lease, Note, Waiter
from app.fleet.ledger import MemoryLedger
from app.fleet.logs import LastWords, LogLines
from app.fleet.memory import Budget, Cramped
from app.fleet.meter import Memory
from app.fleet.queue import Queue
from app.fleet.records import Fault, after_fault
from app.fleet.remotes import Remote, Remotes
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
    Record,
    Refuse,
    Start,
    State,
    Stop,
    Undrain,
    Why,
)
from app.fleet.status import ModelStatus, status_of
from app.journal import Journal

_LOAD_S = 3600.0
_MOST_LOADED = 32
_NO_LONGER_DESIRED = frozenset({Why.EVICTED, Why.CRAMPED, Why.UNLOADED, Why.IDLE})
_ROUNDS = 100
"""A step settles in three or four rounds; more means that two decisions undo each other."""


class Fleet:
    """The models of one host."""

    def __init__(
        self,
        engine: Engine,
        run_dir: Path,
        journal: Journal,
        limits: Limits | None = None,
        *,
        memory: Memory | None = None,
    ) -> None:
        """A fleet that wants nothing yet. Without ``memory`` none is looked at, and places alone count."""
        self.limits = limits or Limits()
        self._engine, self._run_dir, self._journal = engine, run_dir, journal
        self._remotes = Remotes(journal, self.limits)
        self._models: Mapping[str, ModelSpec] = {}
        self._max_loaded = 1
        self._instances: dict[int, Instance] = {}
        self._ready: dict[str, Instance] = {}
        self._queue = Queue(self.limits)
        self._records: dict[str, Record] = {}
        self._desired: set[str] = set()
        self._last_words = LastWords()
        self._shutting_down = False
        self._numbers = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at_s: float | None = None
        self._ledger = MemoryLedger(memory, self._step)

    def want(self, models: Mapping[str, ModelSpec], *, max_loaded: int | None, budget: Budget | None = None) -> None:
        """What should be; the rest follows. A model whose run is the same keeps running.

        Args:
            models: All models, by key.
            max_loaded: How many may be loaded at once; None for as many as memory allows, where it is looked at.
            budget: What of the host's memory they may take together.
        """
        self._remotes.want({key: spec for key, spec in models.items() if spec.is_remote})
        models = {key: spec for key, spec in models.items() if not spec.is_remote}
        for key, spec in models.items():
            before = self._models.get(key)
            if before is None or spec.run != before.run:
                self._records.pop(key, None)
            if spec.section.preload and not (before and before.section.preload):
                self._desired.add(key)
        self._desired &= models.keys()
        self._queue.paces.keep(models)
        places = max_loaded or (_MOST_LOADED if self._ledger.is_read else 1)
        self._models, self._max_loaded = models, places
        self._ledger.want(models, budget or Budget())
        self._step()

    def lease(
        self, key: str, *, deadline_s: float, waiting: Note | None = None, keep_alive_s: float | None = None
    ) -> Lease:
        """One slot of a ready instance of this model, loading it and making room if need be.

        Args:
            key: A model's key.
            deadline_s: On the monotonic clock; the wait ends then.
            waiting: Told what is waited for, at once and whenever that changes.
            keep_alive_s: How long the model stays loaded when nobody uses it, from now on and until it leaves; infinite
                to keep it, None to leave that as it is.

        Raises:
            AirLabError: On entering: the model is unknown, has no file, failed, cools down, its queue is full, the
                deadline passed, or the service shuts down; each has its class.
        """
        return Lease(self, key, deadline_s, waiting, keep_alive_s)

    async def load(
        self, key: str, *, waiting: Note | None = None, beside: bool = False, keep_alive_s: float | None = None
    ) -> None:
        """Load it, now and not later; a cool-down or a failure is forgiven. Raises as ``lease`` does.

        A caller that goes away does not end the load.

        Args:
            key: A model's key.
            waiting: As for ``lease``.
            beside: Refuse where another model would have to leave for it.
            keep_alive_s: As for ``lease``.
        """
        self._records.pop(key, None)
        if key not in self._remotes:
            self._desired.add(key)
        try:
            deadline_s = time.monotonic() + _LOAD_S
            loaded = await self.wait_for(key, deadline_s=deadline_s, takes_slot=False, note=waiting, evicts=not beside)
            if keep_alive_s is not None and isinstance(loaded, Instance):
                loaded.keep_alive_s = keep_alive_s
                self._step()
        except AirLabError:
            # What did not come up is not tried for ever, in the place of others.
            self._desired.discard(key)
            raise

    async def unload(self, key: str) -> None:
        """Let it finish what it has, stop it, and return when it is gone; nothing happens where it is not loaded.

        Returns also when a request called it back while it finished what it had.

        Raises:
            UnavailableError: Its engine cannot be stopped; that is tried again every few seconds.
        """
        instances = self.begin_unload(key)
        await asyncio.gather(*(instance.settled.wait() for instance in instances))
        stuck = [instance.where for instance in instances if instance.state is State.STUCK]
        if stuck:
            raise UnavailableError(f"the engine of {key} cannot be stopped ({', '.join(stuck)})", retry_after_s=5)

    def begin_unload(self, key: str) -> list[Instance]:
        """The first half of ``unload``, for one who need not wait: the instances that now leave.

        Who waits for this model to be loaded is told so; else that wait would start it anew.
        """
        self._desired.discard(key)
        for waiter_id in self._queue.loading(key):
            error = UnavailableError(f"{key} was unloaded before it was ready", retry_after_s=1)
            self._queue.refuse(waiter_id, error)
        instances = [i for i in self._instances.values() if i.spec.key == key]
        for instance in instances:
            if instance.state is State.READY:
                self._drain(instance, Why.UNLOADED)
            elif instance.state is State.STARTING:
                self._stop(instance, Why.UNLOADED)
        self._step()
        return instances

    async def fit(self, spec: ModelSpec) -> dict[str, Any]:
        """Whether and how a model would start beside what is loaded, with the arithmetic; nothing is started."""
        if spec.is_remote:
            return {
                "model_key": spec.key,
                "fits": None,
                "message": f"{spec.key} runs on {spec.where}, and takes nothing here",
            }
        instances = tuple(self._instances.values())
        own = next((each for each in instances if each.spec.key == spec.key), None)
        return await self._ledger.judge(spec, instances, measured_bytes=own.measured_bytes if own else None)

    def status(self) -> Mapping[str, ModelStatus]:
        """How every model is now."""
        return {key: self._status_of(key) for key in self._models} | self._remotes.status()

    def log_of(self, key: str) -> LogLines:
        """What the model's engine wrote last, whether it still runs or not."""
        return self._last_words.of(key, [i for i in self._instances.values() if i.spec.key == key])

    async def shut_down(self, *, drain_s: float) -> bool:
        """Take no more work, let the open work end for ``drain_s``, break off the rest, stop everything.

        Returns:
            True when nothing is left of any instance.
        """
        self._shutting_down = True
        self._step()
        remotes = asyncio.create_task(self._remotes.drain(within_s=drain_s))
        instances = tuple(self._instances.values())
        gone = [asyncio.create_task(instance.gone.wait()) for instance in instances]
        if not gone:
            await asyncio.gather(remotes, self._ledger.close())
            return True
        await asyncio.wait(gone, timeout=drain_s)
        self.break_off()
        _, left = await asyncio.wait(gone, timeout=self.limits.stop_grace_s + 10)
        for task in left:
            task.cancel()
        await asyncio.gather(remotes, self._ledger.close())
        return not left

    def break_off(self) -> None:
        """Stop every instance now, whatever it is busy with."""
        self._remotes.break_off()
        for instance in tuple(self._instances.values()):
            self._stop(instance, Why.SHUTDOWN)

    # What a Lease asks for.

    def take_free(self, key: str) -> Instance | Remote | None:
        """The hot path: a slot that is free while nobody waits, without a decision."""
        instance = self._ready.get(key)
        if instance is None:
            return self._remotes.take_free(key)
        if self._queue or instance.leases >= instance.slots:
            return None
        instance.leases += 1
        instance.last_used_s = time.monotonic()
        return instance

    def give_back(
        self, instance: Instance | Remote, *, held_s: float | None = None, keep_alive_s: float | None = None
    ) -> None:
        """A slot is free again that was held so long, by a request that wants the model kept so long."""
        if isinstance(instance, Remote):
            self._remotes.give_back(instance)
            return
        instance.leases -= 1
        instance.last_used_s = time.monotonic()
        if keep_alive_s is not None:
            instance.keep_alive_s = keep_alive_s
        if held_s is not None:
            self._queue.paces.served(instance.spec.key, held_s)
        if not instance.was_used:
            instance.was_used = True
            self._ledger.measure(instance)
        if self._queue or instance.state is State.DRAINING or self._idles_unwatched(instance):
            self._step()

    async def wait_for(
        self, key: str, *, deadline_s: float, takes_slot: bool, note: Note | None, evicts: bool = True
    ) -> Instance | Remote:
        """Stand in the queue. A caller that goes away leaves it; a slot granted meanwhile goes back."""
        if key in self._remotes:
            return await self._remotes.wait_for(key, deadline_s=deadline_s, takes_slot=takes_slot)
        waiter = Waiter(next(self._numbers), key, time.monotonic(), deadline_s, takes_slot, note, evicts)
        self._queue.enter(waiter, self._facts)
        self._step()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if takes_slot and waiter.granted.done() and not waiter.granted.cancelled() and _succeeded(waiter.granted):
                self.give_back(waiter.granted.result())
            raise
        finally:
            if self._queue.leave(waiter):
                self._step()

    # Deciding and carrying out: synchronous from here on.

    def _step(self) -> None:
        """Decide and carry out until nothing is left to do but to wait."""
        for _ in range(_ROUNDS):
            actions = decide(self._facts(), self.limits, now_s=time.monotonic())
            looks = [action.at_s for action in actions if isinstance(action, Look)]
            if len(looks) == len(actions):
                self._look_at(min(looks, default=None))
                self._queue.tell(self._facts, lambda key: self._status_of(key).state, now_s=time.monotonic())
                return
            for action in actions:
                self._carry_out(action)
        raise RuntimeError(f"the fleet does not settle: {self._facts()}")

    def _facts(self) -> FleetState:
        return FleetState(
            models=self._models,
            instances=tuple(
                replace(instance.facts, booking=self._ledger.booking(instance)) for instance in self._instances.values()
            ),
            waiters=self._queue.facts,
            records=self._records,
            desired=frozenset(self._desired),
            max_loaded=self._max_loaded,
            shutting_down=self._shutting_down,
            memory=self._ledger.state(now_s=time.monotonic()),
        )

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start(key, fitted):
                self._start(self._models[key], fitted)
            case Measure():
                asked = {waiter.key for waiter in self._queue.facts} | self._desired
                self._ledger.read(self._instances.values(), [self._models[key] for key in asked if key in self._models])
            case Forgo(key, message):
                self._desired.discard(key)
                self._journal.note(facts.ModelDoesNotFit(key, message))
            case Drain(number, why):
                self._drain(self._instances[number], why)
            case Undrain(number):
                self._set_state(self._instances[number], State.READY, None)
                self._instances[number].settled.set()
            case Stop(number, why):
                self._stop(self._instances[number], why)
            case Grant(waiter_id, number):
                instance = self._instances[number]
                if self._queue.grant(waiter_id, instance):
                    instance.leases += 1
                    instance.last_used_s = time.monotonic()
            case Refuse(waiter_id, error):
                self._queue.refuse(waiter_id, error)
            case Look():
                pass

    def _start(self, spec: ModelSpec, fitted: Fitted | None) -> None:
        number = next(self._numbers)
        fit = fitted.fit if fitted else as_written(spec.run)
        try:
            socket = self._run_dir / socket_name(number, spec.key)
            given = fitted.fit if fitted else None
            settled = with_fit(spec, fit)
            launch = launch_for(spec.key, settled.run, socket=socket, environment=os.environ, fit=given)
        except EngineError as exc:
            fault = Fault(exc.message, is_verdict=True, can_pass=False)
            self._records[spec.key] = after_fault(Record(), fault, self.limits, now_s=time.monotonic())
            self._desired.discard(spec.key)
            return
        # A failure that is tried again is a failure no more.
        record = self._records.get(spec.key)
        if record is not None and record.failure is not None:
            del self._records[spec.key]
        instance = Instance(number, settled, self._engine, launch, self.limits, self._heard)
        instance.wanted, instance.fitted = spec.run, fitted
        self._instances[number] = instance
        if fitted is not None and fitted.warning is not None:
            self._journal.note(facts.MemoryIsTight(spec.key, fitted.warning))
        self._journal.note(facts.ModelStarting(spec.key, number))

    def _drain(self, instance: Instance, why: Why) -> None:
        if why in _NO_LONGER_DESIRED:
            self._desired.discard(instance.spec.key)
        self._set_state(instance, State.DRAINING, why)
        instance.settled.clear()
        self._journal.note(facts.ModelLeaving(instance.spec.key, instance.id, why))

    def _stop(self, instance: Instance, why: Why) -> None:
        if instance.state in {State.STOPPING, State.STUCK}:
            return
        self._set_state(instance, State.STOPPING, why)
        if why is Why.SHUTDOWN:
            instance.stop(DrainingError("AirLab is shutting down", retry_after_s=5))
        else:
            instance.stop(broken_by_stop(instance))

    def _set_state(self, instance: Instance, state: State, why: Why | None) -> None:
        instance.state, instance.why, instance.since_s = state, why, time.monotonic()
        key = instance.spec.key
        if state is State.READY:
            self._ready[key] = instance
        elif self._ready.get(key) is instance:
            del self._ready[key]

    def _heard(self, instance: Instance, report: Report) -> None:
        """An instance's report: the one way in which processes change the fleet's state."""
        key = instance.spec.key
        match report:
            case BecameReady(took_s):
                instance.last_used_s, instance.load_s = time.monotonic(), took_s
                self._queue.paces.loaded(key, took_s)
                self._set_state(instance, State.READY, None)
                self._ledger.came()
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
                self._set_state(instance, State.STUCK, instance.why)
                instance.settled.set()
                self._journal.note(facts.ModelStuck(key, instance.id, instance.pid, instance.container))
        self._step()

    def _bury(self, instance: Instance) -> None:
        key = instance.spec.key
        del self._instances[instance.id]
        self._last_words.keep(instance)
        self._ledger.went()
        spec = self._models.get(key)
        # The fault of a run that an edit replaced meanwhile says nothing of its successor.
        if instance.fault is not None and spec is not None and spec.run == instance.wanted:
            before = self._records.get(key, Record())
            record = after_fault(before, instance.fault, self.limits, now_s=time.monotonic())
            if instance.fault.ran_out is not None:
                takes = instance.fitted.estimate.takes if instance.fitted else {}
                record = replace(record, cramped=Cramped(instance.fault.ran_out, takes, len(self._instances)))
            self._records[key] = record
        self._journal.note(facts.ModelStopped(key, instance.id, instance.why or ""))

    def _idles_unwatched(self, instance: Instance) -> bool:
        """Whether the end of its idle time comes before the next look."""
        spec = self._models.get(instance.spec.key)
        timeout_s = None if spec is None else idle_timeout_s(spec, instance.keep_alive_s)
        if timeout_s is None or instance.leases:
            return False
        return self._looks_at_s is None or self._looks_at_s > instance.last_used_s + timeout_s

    def _look_at(self, at_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._looks_at_s = None, at_s
        if at_s is not None:
            delay_s = max(0.0, at_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._step)

    def _status_of(self, key: str) -> ModelStatus:
        return status_of(
            [instance for instance in self._instances.values() if instance.spec.key == key],
            self._records.get(key, Record()),
            slots=(self._models[key].run.slots or 0) if key in self._models else 0,
            waiting=self._queue.waiting_for(key),
            now_s=time.monotonic(),
        )


def _succeeded(future: asyncio.Future[Instance]) -> bool:
    return future.exception() is None
