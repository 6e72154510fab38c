"""A turn on its way, and who listens to it: one listener as a rule, more where a request is sent again meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from app.chat.events import TurnEvent
from app.errors import AirLabError

Emit = Callable[[TurnEvent], None]


class Running:
    """One turn. It goes on while anybody listens, and is cancelled when the last one leaves."""

    def __init__(self, work: Callable[[Running], Coroutine[Any, Any, None]]) -> None:
        """Begin; ``work`` tells its events to what it is given."""
        self.told: list[TurnEvent] = []
        """The events so far."""
        self.is_left = False
        """Nobody listens any more, so it is being cancelled: who comes now needs another."""
        self._listeners: list[asyncio.Queue[TurnEvent | None]] = []
        self.task = asyncio.create_task(without_trace(work(self)))
        self.task.add_done_callback(lambda _: self._to_all(None))

    def tell(self, event: TurnEvent) -> None:
        """Something happened."""
        self.told.append(event)
        self._to_all(event)

    async def events(self) -> AsyncGenerator[TurnEvent]:
        """All its events, those of before first.

        Raises:
            AirLabError: The turn failed.
        """
        queue: asyncio.Queue[TurnEvent | None] = asyncio.Queue()
        for told in self.told:
            queue.put_nowait(told)
        if self.task.done():
            queue.put_nowait(None)
        self._listeners.append(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
            await asyncio.shield(self.task)
        finally:
            self._listeners.remove(queue)
            if not self._listeners:
                self.is_left = True
                self.task.cancel()
                # Its end is in the store before anybody can begin the next turn.
                await asyncio.gather(self.task, return_exceptions=True)
                # Who listened is in the trace of an error that the task keeps, and so is this, in a ring.
                self.told.clear()

    def _to_all(self, event: TurnEvent | None) -> None:
        for queue in self._listeners:
            queue.put_nowait(event)


async def without_trace(work: Coroutine[Any, Any, None]) -> None:
    """Do it; an end that AirLab has words for leaves no trace of where it came from, which nobody would print.

    A task keeps its error, the error its frames, and they the turn with all that was generated, which knows its task:
    a ring that lies there, megabytes of it, until garbage is next looked for.
    """
    try:
        await work
    except (AirLabError, asyncio.CancelledError) as exc:
        error: BaseException | None = exc
        while error is not None:
            error.__traceback__, error = None, error.__context__
        raise
