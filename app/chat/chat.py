"""Runs conversations: one turn at a time in each session, and one only for requests that are sent again.

What happens in a turn is the business of ``turn``.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from app.chat import events
from app.chat.model import Models
from app.chat.once import Answering, Line, OnceRequest
from app.chat.running import Running
from app.chat.turn import Parts, Turn, TurnRequest
from app.errors import KeyReusedError, SessionBusyError
from app.fleet.fleet import Fleet
from app.gate import Gate
from app.live.snapshot import Live
from app.store.records import Once, SessionKey
from app.store.sessions import Sessions


class Chat:
    """The conversations of this service."""

    def __init__(self, live: Live, fleet: Fleet, sessions: Sessions, gate: Gate) -> None:
        """Build it from its parts."""
        self._parts = Parts(live, fleet, sessions, gate, Models())
        self._running: set[asyncio.Task[None]] = set()
        self._locks: weakref.WeakValueDictionary[SessionKey, asyncio.Lock] = weakref.WeakValueDictionary()
        self._once: dict[tuple[str, str], tuple[Once, Running]] = {}
        """Turns on their way that were asked for with a key: who asks again listens to the same one."""

    async def turn(self, request: TurnRequest, *, actor: str) -> AsyncGenerator[events.TurnEvent]:
        """Run one turn; its events as they happen, ``TurnDone`` last. Leaving it early cancels the turn.

        A request that must lead to one turn only joins that turn while it runs, and is told the same when it is done.

        Raises:
            AirLabError: The turn failed; the store has it as failed.
        """
        # No await between the look and the entry: two that ask at once get one turn.
        async with aclosing((self._joined(request.once) or self._begun(request, actor)).events()) as told:
            async for event in told:
                yield event

    def once(self, request: OnceRequest, *, actor: str, line: Line) -> Answering:
        """An answer with tools to a conversation that the client holds; nothing of it is kept."""
        return Answering(self._parts, request, actor=actor, line=line)

    async def is_answered(self, once: Once) -> bool:
        """Whether a turn was asked for with this key, and runs or is done.

        Raises:
            KeyReusedError: With something else.
        """
        if self._joined(once) is not None:
            return True
        kept = await self._parts.sessions.kept(once)
        if kept is not None:
            _require_same(once, kept.request)
        return kept is not None

    @asynccontextmanager
    async def undisturbed(self, key: SessionKey) -> AsyncIterator[None]:
        """While no turn of the session runs, and none begins; for who moves its head or removes it.

        Raises:
            SessionBusyError: One runs.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        if lock.locked():
            raise SessionBusyError(f"a turn of session {key.name[:128]!r} runs; wait for its end, or end it, first")
        async with lock:
            yield

    def _joined(self, once: Once | None) -> Running | None:
        if once is None or (found := self._once.get((once.owner, once.key))) is None:
            return None
        _require_same(once, found[0].request)
        # A client that gives up often asks again at once, while what it left is still being ended.
        return None if found[1].is_left else found[1]

    def _begun(self, request: TurnRequest, actor: str) -> Running:
        async def work(running: Running) -> None:
            await self._run(request, actor, running)

        running = Running(work)
        self._running.add(running.task)
        running.task.add_done_callback(self._running.discard)
        if (once := request.once) is not None:
            self._once[once.owner, once.key] = once, running
            running.task.add_done_callback(lambda _: self._forget(once, running))
        return running

    def _forget(self, once: Once, running: Running) -> None:
        found = self._once.get((once.owner, once.key))
        if found is not None and found[1] is running:  # else it was left, and another has begun meanwhile
            del self._once[once.owner, once.key]

    async def drained(self, *, within_s: float, hurried: asyncio.Event) -> None:
        """Wait until no turn runs; at most so long, and only while ``hurried`` is not set."""
        ends_s = time.monotonic() + within_s
        hurry = asyncio.create_task(hurried.wait())
        while self._running and not hurry.done() and (rest_s := ends_s - time.monotonic()) > 0:
            await asyncio.wait({*self._running, hurry}, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()

    async def _run(self, request: TurnRequest, actor: str, running: Running) -> None:
        if await self._replayed(request.once, running):
            return
        key = SessionKey(actor, request.session_id)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            # A turn that was left while its answer was being stored has been answered all the same.
            if await self._replayed(request.once, running):
                return
            snapshot = self._parts.live.current
            if request.again is None and request.account.is_reset:
                await self._parts.sessions.reset(key)
                device = snapshot.models[request.model].device
                done = events.TurnDone(session_id=key.name, model=request.model, device=device, finish_reason="reset")
                running.tell(done)
                return
            await Turn(self._parts, snapshot, request, key, running).run()

    async def _replayed(self, once: Once | None, running: Running) -> bool:
        """Tell what was answered to this request before, if it was. Raises KeyReusedError."""
        if once is None or (kept := await self._parts.sessions.kept(once)) is None:
            return False
        _require_same(once, kept.request)
        for event in events.replayed(kept.events, message_id=kept.message_id):
            running.tell(event)
        return True


def _require_same(once: Once, request: bytes) -> None:
    if once.request != request:
        raise KeyReusedError(
            f"Idempotency-Key {once.key!r} was used for another request; send a new key with what is new, and the same "
            "key only with the same request"
        )
