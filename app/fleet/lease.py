"""One slot of one ready instance, and the wait for it. Hold no model while waiting for anything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TypeVar

from app.errors import UpstreamError
from app.fleet.instance import Instance, broken_by_stop
from app.fleet.remotes import Remote
from app.fleet.spec import ModelSpec
from app.fleet.states import State, WaiterFacts
from app.fleet.upstream import Upstream

_T = TypeVar("_T")
_ENDED_S = 2.0
"""For so long a request whose connection broke waits to hear that its engine ended; longer than it takes to hear of a
container whose launcher restarts (``engines/watched.py``)."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What somebody waits for: the model's state, and how many are before them."""

    key: str
    state: State
    ahead: int
    eta_s: float | None = field(default=None, compare=False)
    """Seconds until they are served, by what was measured before; None where nothing was. No news by itself."""


Note = Callable[[Waiting], None]


@dataclass(slots=True)
class Waiter:
    """Somebody in the fleet's queue."""

    id: int
    key: str
    since_s: float
    deadline_s: float
    takes_slot: bool
    note: Note | None
    evicts: bool = True
    granted: asyncio.Future[Instance] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    told: Waiting | None = None

    @property
    def facts(self) -> WaiterFacts:
        """What a decision may look at."""
        return WaiterFacts(self.id, self.key, self.since_s, self.deadline_s, self.takes_slot, self.evicts)

    def is_news(self, waiting: Waiting) -> bool:
        """Whether somebody listens who does not know this yet."""
        return self.note is not None and waiting != self.told

    def tell(self, waiting: Waiting) -> None:
        """Say what is waited for, when that changed."""
        if self.note is not None and self.is_news(waiting):
            self.told = waiting
            self.note(waiting)


class Lender(Protocol):
    """Who has slots to give: the fleet."""

    def take_free(self, key: str) -> Instance | Remote | None:
        """A slot that is free while nobody waits."""

    async def wait_for(self, key: str, *, deadline_s: float, takes_slot: bool, note: Note | None) -> Instance | Remote:
        """Stand in the queue for one."""

    def give_back(
        self, instance: Instance | Remote, *, held_s: float | None = None, keep_alive_s: float | None = None
    ) -> None:
        """A slot is free again that was held so long, by a request that wants the model kept so long."""


class Lease:
    """A slot, as ``async with fleet.lease(...) as lease``; given back at the end of the block, whatever happens."""

    __slots__ = ("_deadline_s", "_fleet", "_instance", "_keep_alive_s", "_key", "_note", "_since_s")

    def __init__(
        self, fleet: Lender, key: str, deadline_s: float, note: Note | None, keep_alive_s: float | None = None
    ) -> None:
        """Use ``Fleet.lease``."""
        self._fleet, self._key, self._deadline_s, self._note = fleet, key, deadline_s, note
        self._keep_alive_s, self._since_s = keep_alive_s, 0.0
        self._instance: Instance | Remote | None = None

    async def __aenter__(self) -> Lease:
        """Wait for the slot. Raises what ``Fleet.lease`` says."""
        self._instance = self._fleet.take_free(self._key) or await self._fleet.wait_for(
            self._key, deadline_s=self._deadline_s, takes_slot=True, note=self._note
        )
        self._since_s = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the slot back."""
        instance, self._instance = self._instance, None
        if instance is not None:
            held_s = time.monotonic() - self._since_s
            self._fleet.give_back(instance, held_s=held_s, keep_alive_s=self._keep_alive_s)

    @property
    def spec(self) -> ModelSpec:
        """The model as this instance runs it."""
        return self._held.spec

    @property
    def counted_by(self) -> str:
        """Who counts tokens here: one file and its template; another file under the same key counts anew."""
        weights = self.spec.run.weights
        return f"{self.spec.key}:{weights.modified_ns if weights else 0}"

    @property
    def upstream(self) -> Upstream:
        """The way to its llama-server."""
        return self._held.upstream

    async def engine_ended(self, *, within_s: float) -> bool:
        """True when the engine is known to have ended; for one who saw it break off and wants to try another."""
        if isinstance(self._held, Remote):  # nobody here would hear of its end
            return self._held.ended.is_set()
        try:
            await asyncio.wait_for(self._held.ended.wait(), within_s)
        except TimeoutError:
            return False
        return True

    def why_it_ended(self) -> UpstreamError | None:
        """What its engine died of, with its last log lines; None while that is not known."""
        held = self._held
        return broken_by_stop(held) if isinstance(held, Instance) and held.fault is not None else None

    @property
    def _held(self) -> Instance | Remote:
        if self._instance is None:
            raise RuntimeError("this lease was given back")
        return self._instance


async def with_lease(
    fleet: Lender,
    key: str,
    work: Callable[[Lease], Awaitable[_T]],
    *,
    deadline_s: float,
    begun: Callable[[], bool],
    waiting: Note | None = None,
    keep_alive_s: float | None = None,
) -> _T:
    """Do ``work`` with a lease; with one more lease when the engine died before anything came of it.

    Args:
        fleet: Where the lease comes from.
        key: A model's key.
        work: What to do with it.
        deadline_s: On the monotonic clock; the waits for a lease end then.
        begun: True once somebody has seen some of the work, so that it cannot be done again.
        waiting: As for ``Fleet.lease``.
        keep_alive_s: As for ``Fleet.lease``.

    Raises:
        AirLabError: As ``Fleet.lease``, and what ``work`` raises.
    """
    for last_try in (False, True):
        async with Lease(fleet, key, deadline_s, waiting, keep_alive_s) as lease:
            try:
                return await work(lease)
            except UpstreamError as exc:
                # Again only if it is really gone, and not merely closing on us. Asked on the last try too: who hears of
                # this failure shall see it in /health, and what the engine said last.
                if await lease.engine_ended(within_s=_ENDED_S) and not begun() and not last_try:
                    continue
                reason = lease.why_it_ended()
                if reason is None:
                    raise
                raise reason from exc
    raise AssertionError("unreachable: the last try returns or raises")
