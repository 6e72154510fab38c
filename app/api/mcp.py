"""/mcp: the tools for agents elsewhere, by the Model Context Protocol. Who may come, and whether anybody may.

Every call goes through the gate, as POST /tools/{name}/call does. What is said there stands in ``mcpwire.py``, which
is imported for the first who asks: the SDK takes half a second and 30 MiB.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import TYPE_CHECKING

from app.api.auth import Auth
from app.api.auth import Scope as Needs
from app.api.errors import answer_for
from app.api.wire import Receive, Scope, Send
from app.errors import AirLabError, RouteNotFoundError, WrongMethodError
from app.fleet import ring
from app.service import Service

if TYPE_CHECKING:
    from app.api.mcpwire import McpTools

PATH = "/mcp"
NEEDS = Needs.USE
"""The scope of the route; a tool that changes something needs more."""


class McpApp:
    """Serves /mcp."""

    def __init__(self, service: Service, auth: Auth) -> None:
        """One for each application."""
        self._service, self._auth = service, auth
        self._tools: McpTools | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: one message in, one answer out, and nothing kept for the next."""
        try:
            client = scope["client"]
            actor = self._auth.who(scope["headers"], address=client[0] if client else "")
            self._auth.require(actor, NEEDS)
            self._refuse_if_off()
            if scope["method"] != "POST":
                # A GET would wait for news, and there are none: no session is kept that could tell them.
                raise WrongMethodError(f"{PATH} takes POST", allowed="POST")
            self._service.refuse_if_stopping()
        except AirLabError as exc:
            await _refuse(exc, send)
            return
        if self._tools is None:
            wire = await asyncio.to_thread(importlib.import_module, "app.api.mcpwire")
            self._tools = self._tools or wire.McpTools(self._service.gate)
        await self._tools.serve(actor, scope, receive, send, from_airlab=ring.is_passed_on())

    def _refuse_if_off(self) -> None:
        if not self._service.gate.policy.mcp_server:
            raise RouteNotFoundError(
                f"{PATH} is off; `policy: {{mcp_server: true}}` in airlab.yaml offers the tools to agents elsewhere"
            )


async def _refuse(exc: AirLabError, send: Send) -> None:
    answer = answer_for(exc)
    body = json.dumps({"error": answer.error}).encode()
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
