"""What is asked of the fleet: a slot of a model, a load, an unload, how things are; here or on another server.

Ask for an outcome here; never read a state to decide on a start or a stop. What runs on this host is changed by
``reconcile.py`` alone, what runs on other servers by ``remotes.py``; here is what waits for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.engines.base import Engine
from app.errors import AirLabError, DoesNotFitError, UnavailableError
from app.fleet.instance import Instance
from app.fleet.lease import Lease, Note
from app.fleet.logs import LogLines
from app.fleet.memory import Budget, Share
from app.fleet.meter import Memory
from app.fleet.paces import Paces
from app.fleet.reconcile import Reconciler
from app.fleet.remotes import Remote, Remotes
from app.fleet.spec import ModelSpec
from app.fleet.states import Limits, State
from app.fleet.status import ModelStatus
from app.journal import Journal

_LOAD_S = 3600.0


class Fleet:
    """The models of one host, and those that it uses elsewhere."""

    def __init__(
        self,
        engine: Engine,
        run_dir: Path,
        journal: Journal,
        limits: Limits | None = None,
        *,
        memory: Memory | None = None,
        paces_file: Path | None = None,
    ) -> None:
        """A fleet that wants nothing yet.

        Args:
            engine: Runs llama-servers.
            run_dir: Where their sockets lie.
            journal: Told what happens.
            limits: The fleet's numbers.
            memory: How memory is looked at; without it places alone count.
            paces_file: Where it is kept how long models took; without it that is as old as the fleet.
        """
        self.limits = limits or Limits()
        self._remotes = Remotes(journal, self.limits)
        paces = Paces(quiet_s=self.limits.quiet_s, file=paces_file)
        self._reconciler = Reconciler(engine, run_dir, journal, self.limits, memory, paces)

    def want(self, models: Mapping[str, ModelSpec], *, max_loaded: int | None, budget: Budget | None = None) -> None:
        """What should be; the rest follows. A model whose run is the same keeps running.

        Args:
            models: All models, by key.
            max_loaded: How many may be loaded at once; None for as many as memory allows, where it is looked at.
            budget: What of the host's memory they may take together.
        """
        self._remotes.want({key: spec for key, spec in models.items() if spec.is_remote})
        here = {key: spec for key, spec in models.items() if not spec.is_remote}
        self._reconciler.want(here, max_loaded=max_loaded, budget=budget or Budget())

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
        if key not in self._remotes:
            self._reconciler.desire(key)
        try:
            deadline_s = time.monotonic() + _LOAD_S
            loaded = await self.wait_for(key, deadline_s=deadline_s, takes_slot=False, note=waiting, evicts=not beside)
            if keep_alive_s is not None and isinstance(loaded, Instance):
                self._reconciler.keep_alive(loaded, keep_alive_s)
        except AirLabError:
            # What did not come up is not tried for ever, in the place of others.
            self._reconciler.give_up(key)
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
        """The first half of ``unload``, for one who need not wait: the instances that now leave."""
        return self._reconciler.unload(key)

    def bring_back(self, key: str) -> None:
        """Load what was unloaded for nothing, once there is room for it; nobody waits, and nothing leaves for it."""
        self._reconciler.bring_back(key)

    async def refuse_out_of_reach(self, key: str) -> None:
        """Ask before something is stopped for a model whether it is to be had at all.

        Raises:
            DoesNotFitError: It could not start if all others were gone.
            UnavailableError: It runs elsewhere, and its server is away.
        """
        spec = self._reconciler.spec_of(key)
        if key in self._remotes:
            await self._remotes.wait_for(key, deadline_s=time.monotonic() + _LOAD_S, takes_slot=False)
        elif spec is not None:
            await self.refuse_hopeless(spec)

    async def fit(self, spec: ModelSpec) -> dict[str, Any]:
        """Whether and how a model would start beside what is loaded, with the arithmetic; nothing is started."""
        if spec.is_remote:
            return {
                "model_key": spec.key,
                "fits": None,
                "message": f"{spec.key} runs on {spec.where}, and takes nothing here",
            }
        own = next((each for each in self._instances() if each.spec.key == spec.key), None)
        measured_bytes = own.measured_bytes if own else None
        return await self._reconciler.ledger.judge(spec, self._instances, measured_bytes=measured_bytes)

    async def refuse_hopeless(self, spec: ModelSpec) -> None:
        """Raises DoesNotFitError where a model could never start here, by its header, whatever else is unloaded."""
        if (short := await self._reconciler.ledger.never_fits(spec, self._instances)) is not None:
            raise DoesNotFitError(short.message)

    def _instances(self) -> tuple[Instance, ...]:
        return tuple(self._reconciler.instances.values())

    def status(self) -> Mapping[str, ModelStatus]:
        """How every model is now."""
        return self._reconciler.status() | self._remotes.status()

    def shares(self) -> list[Share]:
        """How the models that run share the host's memory, by the last reading of it."""
        return self._reconciler.ledger.shares(self._reconciler.instances.values())

    def log_of(self, key: str) -> LogLines:
        """What the model's engine wrote last, whether it still runs or not."""
        return self._reconciler.log_of(key)

    async def shut_down(self, *, drain_s: float) -> bool:
        """Take no more work, let the open work end for ``drain_s``, break off the rest, stop everything.

        Returns:
            True when nothing is left of any instance.
        """
        instances = self._reconciler.shut_down()
        remotes = asyncio.create_task(self._remotes.drain(within_s=drain_s))
        gone = [asyncio.create_task(instance.gone.wait()) for instance in instances]
        if not gone:
            await asyncio.gather(remotes, self._reconciler.close())
            return True
        await asyncio.wait(gone, timeout=drain_s)
        self.break_off()
        _, left = await asyncio.wait(gone, timeout=self.limits.stop_grace_s + 10)
        for task in left:
            task.cancel()
        await asyncio.gather(remotes, self._reconciler.close())
        return not left

    def break_off(self) -> None:
        """Stop every instance now, whatever it is busy with."""
        self._remotes.break_off()
        self._reconciler.break_off()

    # What a Lease asks for.

    def take_free(self, key: str) -> Instance | Remote | None:
        """The hot path: a slot that is free while nobody waits, without a decision."""
        return self._reconciler.take_free(key) or self._remotes.take_free(key)

    def give_back(
        self, instance: Instance | Remote, *, held_s: float | None = None, keep_alive_s: float | None = None
    ) -> None:
        """A slot is free again that was held so long, by a request that wants the model kept so long."""
        if isinstance(instance, Remote):
            self._remotes.give_back(instance)
        else:
            self._reconciler.give_back(instance, held_s=held_s, keep_alive_s=keep_alive_s)

    async def wait_for(
        self, key: str, *, deadline_s: float, takes_slot: bool, note: Note | None, evicts: bool = True
    ) -> Instance | Remote:
        """Stand in the queue. A caller that goes away leaves it; a slot granted meanwhile goes back."""
        if key in self._remotes:
            return await self._remotes.wait_for(key, deadline_s=deadline_s, takes_slot=takes_slot)
        waiter = self._reconciler.enter(key, deadline_s=deadline_s, takes_slot=takes_slot, note=note, evicts=evicts)
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if takes_slot and waiter.granted.done() and not waiter.granted.cancelled() and _succeeded(waiter.granted):
                self.give_back(waiter.granted.result())
            raise
        finally:
            self._reconciler.leave(waiter)


def _succeeded(future: asyncio.Future[Instance]) -> bool:
    return future.exception() is None
