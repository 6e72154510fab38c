"""GET /events: what happens in AirLab, as it happens, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from litestar import Request, get
from litestar.response import Stream

from app.api.auth import Scope
from app.journal import Fact, Journal
from app.service import Service

_QUEUE = 256
"""Events that wait for a slow reader; one that falls further behind is told how many it missed."""
_PING_S = 15.0


@get("/events", opt={"scope": Scope.ADMIN})
async def events(request: Request[Any, Any, Any]) -> Stream:
    """Every fact from now on: its name in snake case as the event's type, its values as JSON. Ends with the service."""
    service: Service = request.app.state.owner.service
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    stream = _facts(service.journal, service.is_stopping)
    return Stream(stream, media_type="text/event-stream", headers=headers)


async def _facts(journal: Journal, stopping: asyncio.Event) -> AsyncIterator[str]:
    queue: asyncio.Queue[Fact] = asyncio.Queue(_QUEUE)
    missed = 0

    def note(fact: Fact) -> None:
        nonlocal missed
        try:
            queue.put_nowait(fact)
        except asyncio.QueueFull:
            missed += 1

    unsubscribe = journal.subscribe(note)
    ended = asyncio.create_task(stopping.wait())
    try:
        yield ": from now on\n\n"
        while not (stopping.is_set() and queue.empty()):
            fact = asyncio.create_task(queue.get())
            await asyncio.wait({fact, ended}, timeout=_PING_S, return_when=asyncio.FIRST_COMPLETED)
            if fact.done():
                yield _event(fact.result())
            else:
                fact.cancel()
                with suppress(asyncio.CancelledError):
                    await fact
                yield ": still here\n\n"
            if missed:
                yield f"event: missed\ndata: {json.dumps({'events': missed})}\n\n"
                missed = 0
    finally:
        unsubscribe()
        ended.cancel()


def _event(fact: Fact) -> str:
    values = {"at": round(time.time(), 3), **fact.values()}
    return f"event: {fact.name.replace(' ', '_')}\ndata: {json.dumps(values, default=str)}\n\n"
