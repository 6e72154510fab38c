"""GET /models/{key}/logs: what a model's engine wrote last, and what it writes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import FromPath, FromQuery, Parameter
from litestar.response import Stream

from app.api.auth import Scope
from app.errors import BadRequestError
from app.fleet.logs import LogLines, news
from app.service import Service

_LOOK_S = 0.25
_PING_S = 15.0


@get("/models/{name:str}/logs", opt={"scope": Scope.ADMIN})
async def logs(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    follow: FromQuery[bool] = False,
    tail: Annotated[int, Parameter(ge=0, le=200)] = 200,
) -> Response[dict[str, Any]] | Stream:
    """The last lines, as the engine wrote them; after its end, too. With ``follow`` as events, and those to come."""
    service: Service = request.app.state.owner.service
    key = service.live.current.key_of(name)
    if service.live.current.models[key].is_remote:
        raise BadRequestError(f"{key} runs on another server, which keeps its own log", param="name")
    seen = service.fleet.log_of(key)
    shown = seen.lines[len(seen.lines) - min(tail, len(seen.lines)) :]
    if not follow:
        body = {"model_key": key, "instance": seen.instance, "running": seen.is_running, "lines": shown}
        return Response(body)
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    stream = _followed(service, key, seen, shown)
    return Stream(stream, media_type="text/event-stream", headers=headers)


async def _followed(service: Service, key: str, seen: LogLines, shown: tuple[str, ...]) -> AsyncIterator[str]:
    """A line is an event; so is another engine, before its first line. Ends with the service."""
    loop = asyncio.get_running_loop()
    yield _event("engine", {"instance": seen.instance, "running": seen.is_running})
    for line in shown:
        yield _event("line", {"line": line})
    spoken_s = loop.time()
    ended = asyncio.create_task(service.is_stopping.wait())
    try:
        while not service.stopping:
            # A look and no subscription: every kind of engine can be asked for its last lines, in microseconds.
            await asyncio.wait({ended}, timeout=_LOOK_S)
            now = service.fleet.log_of(key)
            told = "".join(_news(seen, now))
            seen = now
            if told or loop.time() > spoken_s + _PING_S:
                yield told or ": still here\n\n"
                spoken_s = loop.time()
    finally:
        ended.cancel()


def _news(seen: LogLines, now: LogLines) -> Iterator[str]:
    if (now.instance, now.is_running) != (seen.instance, seen.is_running):
        yield _event("engine", {"instance": now.instance, "running": now.is_running})
    for line in news(seen, now):
        yield _event("line", {"line": line})


def _event(kind: str, values: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(values)}\n\n"
