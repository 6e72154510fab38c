"""The tools in force, in the words of the Model Context Protocol. Asks the gate; runs nothing itself.

Imported only where somebody asks for /mcp. The SDK's server is used without sessions and without streams: everything
that it makes for a request ends with it.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from app.api.auth import Actor
from app.api.tools import found, needed_for
from app.api.wire import Receive, Scope, Send
from app.errors import ToolNotFoundError
from app.gate import Gate
from app.messages import ToolCall
from app.tools.base import ToolSpec
from app.units import MIB

MOST_CALLS = 16
"""Calls that run or wait for a person at the same time, of all agents together: most questions that may wait are left
to conversations, and a ring of servers that lost its header on the way ends here."""
_BODY_BYTES = 8 * MIB
"""As at the edge, which looks first."""
_INSTRUCTIONS = (
    "Tools of an AirLab. What each may touch is decided there: a call that is denied says why and what to try instead. "
    "A call that overwrites or deletes something waits up to a minute for a person to allow it."
)


@dataclass(frozen=True, slots=True)
class _Caller:
    actor: Actor
    from_airlab: bool

    def why_not(self, spec: ToolSpec) -> str | None:
        """Why this caller may not call a tool that is in force; None where it may."""
        if self.actor.scope < needed_for(spec):
            return f"{spec.name} changes something or runs a program: here that takes the admin key"
        if spec.is_served and self.from_airlab:
            # Two AirLabs that offered each other's tools would offer ever longer lists, and call each other for ever.
            return f"{spec.name} is a tool of another server, which an AirLab has to declare itself"
        return None


class McpTools:
    """What /mcp says and does."""

    def __init__(self, gate: Gate) -> None:
        """Nothing runs yet."""
        self._gate = gate
        self._running = 0

    async def serve(self, actor: Actor, scope: Scope, receive: Receive, send: Send, *, from_airlab: bool) -> None:
        """Answer one request; when this is cancelled, so is the call that it asked for."""
        caller = _Caller(actor, from_airlab)

        async def on_list_tools(_: Any, __: PaginatedRequestParams | None) -> ListToolsResult:
            return self._listed(caller)

        async def on_call_tool(_: Any, params: CallToolRequestParams) -> CallToolResult:
            return await self._called(caller, params)

        server = Server("airlab", instructions=_INSTRUCTIONS, on_list_tools=on_list_tools, on_call_tool=on_call_tool)
        server.middleware.clear()  # a span of OpenTelemetry's for each message, which nobody reads
        # A manager for each request: its tasks end with it, and whose client leaves is cancelled with all of them.
        # Answers are JSON, since the SDK's streams come with a task that wakes up twice a second for ever.
        manager = StreamableHTTPSessionManager(
            server, stateless=True, json_response=True, max_request_body_size=_BODY_BYTES
        )
        async with manager.run():
            await manager.handle_request(scope, receive, send)

    def _listed(self, caller: _Caller) -> ListToolsResult:
        specs, _ = self._gate.offered()
        return ListToolsResult(tools=[_shown(spec) for spec in specs if caller.why_not(spec) is None])

    async def _called(self, caller: _Caller, params: CallToolRequestParams) -> CallToolResult:
        policy = self._gate.policy
        if policy.closed is None:
            try:
                why = caller.why_not(found(policy, params.name))
            except ToolNotFoundError as exc:
                raise MCPError(INVALID_PARAMS, exc.message) from exc
            if why is not None:
                return _said(f"Denied: {why}. Do without it, or tell the user.", is_error=True)
        if self._running >= MOST_CALLS:
            return _said(f"AirLab runs {self._running} calls already. Try again in a moment.", is_error=True)
        call = ToolCall(f"call_{secrets.token_hex(6)}", params.name, _as_text(params.arguments))
        self._running += 1
        try:
            # Whoever has the admin key sees at /approvals what waits.
            result = await self._gate.call(call, actor=f"{caller.actor.name} over mcp", approvals=lambda _: None)
        finally:
            self._running -= 1
        return _said(result.content, is_error=result.status != "ok")


def _shown(spec: ToolSpec) -> Tool:
    return Tool(
        name=spec.name,
        description=spec.description,
        input_schema=dict(spec.parameters),
        annotations=ToolAnnotations(
            read_only_hint=spec.risk == "read",
            # What writes may overwrite, too, once a person or the manifest allows it.
            destructive_hint=spec.risk in {"write", "destructive"} or bool(spec.changes),
            open_world_hint=spec.kind == "net",
        ),
    )


def _as_text(arguments: dict[str, Any] | None) -> str:
    try:
        return json.dumps(arguments or {})
    except (ValueError, RecursionError) as exc:
        raise MCPError(INVALID_PARAMS, "the arguments are nested too deeply, or hold a number without end") from exc


def _said(text: str, *, is_error: bool) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)], is_error=is_error)
