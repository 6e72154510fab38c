"""Owns the models that run on other servers: whether they answer, and who uses them. Nothing to start, health to watch.

The fleet asks here for keys of such models; they take no place and no memory of this host. A server that does not
answer is asked again by itself, and at once when a request comes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from app.engines.command import DEFAULT_CONTEXT
from app.errors import AirLabError, DrainingError, QueueFullError, UnavailableError, WaitTimeoutError
from app.fleet import ring
from app.fleet.afar import Address, RemoteUpstream, said
from app.fleet.spec import ModelSpec
from app.fleet.states import Limits, State
from app.fleet.status import ModelStatus
from app.journal import Fact, Journal, Trouble

log = logging.getLogger("airlab")

_LOOK_S, _ANSWER_S = 15.0, 5.0
_SOON_S = 1.0
"""A server that was asked this recently is not asked again for a request."""


@dataclass(frozen=True, slots=True)
class ModelAnswers(Fact):
    """The server of a model answers, and has it."""

    model: str
    url: str


@dataclass(frozen=True, slots=True)
class ModelAway(Trouble):
    """The server of a model does not answer, or no more has it."""

    model: str
    message: str


@dataclass(eq=False)
class Remote:
    """One model on another server; takes an instance's place in a lease."""

    spec: ModelSpec
    upstream: RemoteUpstream
    id: int
    leases: int = 0
    queue: deque[asyncio.Future[None]] = field(default_factory=deque)
    trouble: str | None = "it was not asked yet"
    """Why it cannot be used; None while it can."""
    was_asked: bool = False
    since_s: float = field(default_factory=time.monotonic)
    looked_s: float = float("-inf")
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is wanted no more; a connection that broke is no end of it."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it was wanted no more, and nobody uses it."""
    watching: asyncio.Task[None] | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether it should be looked at before it is used."""
        return self.trouble is not None or self.upstream.broke

    @property
    def state(self) -> State:
        """In the words of every model."""
        if self.trouble is None:
            return State.READY
        return State.COOLING if self.was_asked else State.STARTING


class Remotes:
    """The models of other servers."""

    def __init__(self, journal: Journal, limits: Limits, *, look_s: float = _LOOK_S) -> None:
        """None yet; each is looked at every ``look_s`` seconds."""
        self._journal, self._limits, self._look_s = journal, limits, look_s
        self._remotes: dict[str, Remote] = {}
        self._leaving: set[Remote] = set()
        """Wanted no more, and still used."""
        self._closing: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    def __contains__(self, key: str) -> bool:
        """Whether this model runs on another server."""
        return key in self._remotes

    def want(self, models: Mapping[str, ModelSpec]) -> None:
        """These, and no others. One whose server, key or slots changed begins anew; open work goes on to its end."""
        for key in [*self._remotes]:
            spec = models.get(key)
            if spec is None or _identity(spec) != _identity(self._remotes[key].spec):
                self._remove(key)
            else:
                self._remotes[key].spec = spec
        for key in models.keys() - self._remotes.keys():
            self._remotes[key] = self._begin(models[key])

    def status(self) -> dict[str, ModelStatus]:
        """How each is."""
        return {
            key: ModelStatus(
                remote.state,
                remote.since_s,
                None,
                _slots(remote.spec),
                remote.leases,
                len(remote.queue),
                remote.trouble,
            )
            for key, remote in self._remotes.items()
        }

    def take_free(self, key: str) -> Remote | None:
        """A slot of a server that answers, where one is free and nobody waits for it; asked before any wait for one.

        Raises:
            RingError: The request came from there.
            BadRequestError: It claims a way that no request comes.
        """
        remote = self._remotes.get(key)
        if remote is None:
            return None
        ring.require_no_ring(key)
        if remote.is_doubtful or remote.queue or remote.leases >= _slots(remote.spec):
            return None
        remote.leases += 1
        return remote

    async def wait_for(self, key: str, *, deadline_s: float, takes_slot: bool) -> Remote:
        """A slot, once the server answers and one is free.

        Raises:
            QueueFullError: Too many wait already.
            UnavailableError: The server does not answer, or has no such model.
            WaitTimeoutError: No slot was free in time.
        """
        remote = self._remotes[key]
        if takes_slot and len(remote.queue) >= self._limits.queue:
            raise QueueFullError(f"{len(remote.queue)} requests wait for {key} already", retry_after_s=5)
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                if remote.is_doubtful:
                    await self._look(remote)
                if remote.trouble is not None:
                    message = f"{key} is not to be had from {remote.spec.where}: {remote.trouble}"
                    raise UnavailableError(message, retry_after_s=self._look_s)
                if takes_slot:
                    await self._slot(remote)
        except TimeoutError as exc:
            raise WaitTimeoutError(f"{key} was not free in time") from exc
        return remote

    async def _slot(self, remote: Remote) -> None:
        if remote.ended.is_set():
            raise self._removed(remote)
        if not remote.queue and remote.leases < _slots(remote.spec):
            remote.leases += 1
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        remote.queue.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.give_back(remote)  # it was granted in this very turn of the loop
            raise
        finally:
            with suppress(ValueError):
                remote.queue.remove(granted)

    def give_back(self, remote: Remote) -> None:
        """A slot is free again: the one who waited for longest has it."""
        remote.leases -= 1
        while remote.queue and remote.leases < _slots(remote.spec):
            granted = remote.queue.popleft()
            if not granted.done():
                remote.leases += 1
                granted.set_result(None)
        if remote.ended.is_set() and not remote.leases:
            self._close(remote)

    async def drain(self, *, within_s: float) -> None:
        """Lend no more, wait so long for open work to end, then break it off."""
        for key in [*self._remotes]:
            self._remove(key)
        idle = [asyncio.create_task(remote.idle.wait()) for remote in self._leaving]
        if idle:
            await asyncio.wait(idle, timeout=within_s)
        self.break_off()
        for task in idle:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def break_off(self) -> None:
        """End what still uses those that are wanted no more."""
        for remote in tuple(self._leaving):
            self._close(remote)

    # One server.

    def _begin(self, spec: ModelSpec) -> Remote:
        key, _ = _key_of(spec)
        context_tokens = spec.run.context_length or DEFAULT_CONTEXT
        upstream = RemoteUpstream(Address.of(spec.where), key, context_tokens=context_tokens, limits=self._limits)
        remote = Remote(spec, upstream, next(self._numbers))
        remote.watching = asyncio.create_task(self._watch(remote))
        return remote

    def _remove(self, key: str) -> None:
        """Lend it no more; who uses it goes on to their end."""
        remote = self._remotes.pop(key)
        remote.ended.set()
        if remote.watching is not None:
            remote.watching.cancel()
        while remote.queue:
            granted = remote.queue.popleft()
            if not granted.done():
                granted.set_exception(self._removed(remote))
        self._leaving.add(remote)
        if not remote.leases:
            self._close(remote)

    def _close(self, remote: Remote) -> None:
        self._leaving.discard(remote)
        remote.idle.set()
        task = asyncio.create_task(remote.upstream.close(self._removed(remote)))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @staticmethod
    def _removed(remote: Remote) -> AirLabError:
        return DrainingError(f"{remote.spec.key} is not used any more: an edit, or the end of AirLab", retry_after_s=5)

    async def _watch(self, remote: Remote) -> None:
        while True:
            await self._look(remote)
            await asyncio.sleep(self._look_s)

    async def _look(self, remote: Remote) -> None:
        """Ask it, unless somebody has just asked, or asked while this waited to: one answer does for all of them."""
        came_s = time.monotonic()
        async with remote.looking:
            is_fresh = came_s - remote.looked_s < _SOON_S and not remote.upstream.broke
            if is_fresh or remote.looked_s > came_s:
                return
            before, trouble = remote.state, await self._trouble(remote)
            if trouble is not None:
                remote.upstream.broke = False  # the trouble says it
            if trouble is not None and trouble != remote.trouble:
                self._journal.note(ModelAway(remote.spec.key, trouble))
            remote.trouble, remote.was_asked, remote.looked_s = trouble, True, time.monotonic()
            if remote.state is not before:
                remote.since_s = remote.looked_s
                if trouble is None:
                    self._journal.note(ModelAnswers(remote.spec.key, remote.spec.where))

    async def _trouble(self, remote: Remote) -> str | None:
        """What is wrong with it; None where nothing is."""
        _, problem = _key_of(remote.spec)
        if problem is not None:
            return problem
        try:
            async with asyncio.timeout(_ANSWER_S):
                await remote.upstream.look(remote.spec.upstream_name)
        except TimeoutError:
            return f"it did not answer within {_ANSWER_S:.0f} s"
        except AirLabError as exc:
            return said(exc, remote.spec.remote.key_env)
        except Exception as exc:
            # Unforeseen, so logged whole; raised, it would end the watch over this model for good.
            log.exception("the look at %s failed", remote.spec.key)
            return f"AirLab failed at asking it: {type(exc).__name__}"
        return None


def _identity(spec: ModelSpec) -> tuple[object, ...]:
    return spec.remote, _slots(spec), spec.run.context_length


def _key_of(spec: ModelSpec) -> tuple[str | None, str | None]:
    """The key for its server, and what is wrong with that."""
    name = spec.remote.key_env
    if name is None:
        return None, None
    key = os.environ.get(name, "")
    if not key:
        return None, f"the environment variable {name} is not set; set it, and start AirLab anew"
    if not key.isascii() or not key.isprintable():
        return None, f"the environment variable {name} holds characters that no header can"
    return key, None


def _slots(spec: ModelSpec) -> int:
    return spec.run.slots or 1
