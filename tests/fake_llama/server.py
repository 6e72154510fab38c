"""One fake llama-server: what it answers on which route, and what it remembers for the test that asks.

Routes under ``/fake`` are the test's own. They answer at any time, also while loading:

- ``/fake/argv``: ``{"argv", "pid", "start"}``; ``start`` counts starts since the script was written.
- ``/fake/requests``: every other request so far: method, path, headers (names in lower case), body.
- ``/fake/active``, ``/fake/queued``, ``/fake/cancelled``: generations that hold a slot, wait for one, were ended by a
  client that left; each answers with all three. With ``?is=N`` the answer comes once the number in the path is N, so
  that a test waits for the event and not for a while.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from contextlib import suppress
from typing import Any

from tests.fake_llama import wire
from tests.fake_llama.answers import Refusal
from tests.fake_llama.completions import Completions, CutOffError
from tests.fake_llama.options import Options
from tests.fake_llama.pages import Pages, without_version
from tests.fake_llama.script import Script
from tests.fake_llama.slots import Slots

COMPLETION_ROUTES = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/completions": "text",
    "/completion": "native",
    "/completions": "native",
}


class FakeServer:
    """State of one process from its start to its end."""

    def __init__(self, options: Options, script: Script, *, start: int) -> None:
        """``start`` is the number of this start, from 1."""
        self.loaded = False
        self.slots = Slots(options.parallel, options.slot_ctx_tokens)
        self._options = options
        self._script = script
        self._start = start
        self._completions = Completions(options, script, self.slots)
        self._pages = Pages(options, script, self.slots, created=int(time.time()))
        self._requests: deque[dict[str, Any]] = deque(maxlen=10_000)

    async def stop(self) -> None:
        """End as llama-server does on SIGTERM: streams are cut, plain answers hang until their clients leave."""
        self._completions.stopping = True
        for generation in self.slots.generations():
            if generation.begun:
                generation.task.cancel()
        await self.slots.until(lambda: not self.slots.active and not self.slots.queued)

    async def serve(self, connection: wire.Connection) -> None:
        """Answer one connection's requests until it ends, or until it is idle or has asked for too long."""
        served = 0
        try:
            with suppress(EOFError, TimeoutError, ConnectionError, CutOffError, asyncio.CancelledError):
                goes_on = True
                while goes_on:
                    async with asyncio.timeout(self._script.keep_alive_s):
                        request = await wire.read_request(connection.reader)
                    served += 1
                    last = served >= self._script.keep_alive_requests or request.headers.get("connection") == "close"
                    goes_on = await self._answer(connection, request, last=last) and not last
        finally:
            connection.writer.close()

    async def _answer(self, connection: wire.Connection, request: wire.Request, *, last: bool) -> bool:
        """Answer one request; false when the connection ends with it."""
        route = COMPLETION_ROUTES.get(request.path) if request.method == "POST" else None
        connection.busy = asyncio.current_task()
        try:
            if route and self._script.instant and self.loaded:
                connection.writer.write(self._completions.instant(route, request.body))
            elif route:
                self._record(request)
                self._refuse_while_loading()
                body = _parsed(request)
                await self._completions.respond(connection, route, body, close=last)
                # The real one, too, hangs up after every stream, though the head of the stream speaks of keep-alive.
                return not body.get("stream")
            else:
                connection.writer.write(await self._page(request, last=last))
        except Refusal as refusal:
            connection.writer.write(wire.answer(refusal.status, wire.to_json(refusal.body)))
            return False
        finally:
            connection.busy = None
        return True

    async def _page(self, request: wire.Request, *, last: bool) -> bytes:
        if request.path.startswith("/fake/"):
            return wire.answer(200, wire.to_json(await self._fake_page(request)), close=last)
        self._record(request)
        self._refuse_while_loading()
        if request.method == "GET" and request.path == "/metrics":
            text = self._pages.metrics().encode()
            return wire.answer(200, text, content_type="text/plain; version=0.0.4", close=last)
        if request.method == "GET" and request.path == "/slots":
            if self._script.health_ok_but_hung:
                await asyncio.Event().wait()  # it asks the loop that hangs
            return wire.answer(200, wire.to_json(self.slots.page()), close=last)
        page = self._pages.routes.get((request.method, without_version(request.path)))
        if page is None:
            raise Refusal(404, "File Not Found")
        return wire.answer(200, wire.to_json(page(_parsed(request))), close=last)

    def _refuse_while_loading(self) -> None:
        if not self.loaded:
            raise Refusal(503, "Loading model")

    def _record(self, request: wire.Request) -> None:
        body: Any = request.body.decode("utf-8", "replace")
        with suppress(json.JSONDecodeError):
            body = json.loads(body)
        seen = {"method": request.method, "path": request.path, "headers": request.headers, "body": body or None}
        self._requests.append(seen)

    async def _fake_page(self, request: wire.Request) -> Any:
        if request.path == "/fake/argv":
            return {"argv": self._options.argv, "pid": os.getpid(), "start": self._start}
        if request.path == "/fake/requests":
            return list(self._requests)
        name = request.path.removeprefix("/fake/")
        if name not in self.slots.counts():
            raise Refusal(404, "File Not Found")
        if "is" in request.query:
            await self.slots.until(lambda: self.slots.counts()[name] == int(request.query["is"]))
        return self.slots.counts()


def _parsed(request: wire.Request) -> dict[str, Any]:
    """The body as an object; an empty one is an empty object. Raises Refusal."""
    try:
        body = json.loads(request.body or b"{}")
    except ValueError as exc:
        raise Refusal(400, f"[json.exception.parse_error.101] parse error: {exc}") from exc
    if not isinstance(body, dict):
        raise Refusal(400, "[json.exception.type_error.304] cannot use at() with a value that is no object")
    return body
