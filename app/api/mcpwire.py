"""The tools in force, in the words of the Model Context Protocol. Asks the gate; runs nothing itself.

Imported only where somebody asks for /mcp. The SDK's server is used without sessions and without streams: everything
that it makes for a request ends with it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
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
from msgspec import Struct, field

from app.api.auth import Actor
from app.api.tools import found, needed_for
from app.api.wire import Message, Receive, Scope, Send
from app.errors import ToolNotFoundError
from app.gate import Gate
from app.messages import ToolCall, ToolResult
from app.tools.base import ToolSpec
from app.units import MIB

MOST_CALLS = 16
"""Calls that run or wait for a person at the same time, of all agents together: most questions that may wait are left
to conversations, and a ring of servers that lost its header on the way ends here."""
_LABEL = b"mcp-session-id"
_BODY_BYTES = 8 * MIB
"""As at the edge, which looks first."""
_INSTRUCTIONS = (
    "Tools of an AirLab. What each may touch is decided there: a call that is denied says why and what to try instead. "
    "A call that overwrites or deletes something waits up to a minute for a person to allow it."
)


class _CancelledParams(Struct):
    request_id: int | str | None = field(name="requestId", default=None)


class _Message(Struct):
    """What is to be known of a message before the SDK reads it."""

    method: str = ""
    id: int | str | None = None
    params: _CancelledParams | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """One request: who asks."""

    actor: Actor
    from_airlab: bool
    label: str
    """Tells agents with the same key apart: drawn for each handshake, sent with all that follows it; empty without."""
    id: str

    def why_not(self, spec: ToolSpec) -> str | None:
        """Why whoever asks may not call a tool that is in force; None where it may."""
        if self.actor.scope < needed_for(spec):
            return f"{spec.name} changes something or runs a program: here that takes the admin key"
        if spec.is_served and self.from_airlab:
            # Two AirLabs that offered each other's tools would offer ever longer lists, and call each other for ever.
            return f"{spec.name} is a tool of another server, which an AirLab has to declare itself"
        return None


class McpTools:
    """What /mcp says and does. Keeps nothing of an agent but the calls that run."""

    def __init__(self, gate: Gate) -> None:
        """Nothing runs yet."""
        self._gate = gate
        self._running: dict[_Request, asyncio.Task[ToolResult]] = {}

    async def serve(self, actor: Actor, scope: Scope, receive: Receive, send: Send, *, from_airlab: bool) -> None:
        """Answer one request; when this is cancelled, so is the call that it asked for."""
        first = await receive()
        message = _read(first["body"])
        request = _Request(actor, from_airlab, _label_of(scope), str(message.id))
        if message.method == "notifications/cancelled" and message.params is not None:
            self._take_back(request, str(message.params.request_id))
        if message.method == "initialize":
            send = _labelling(send)
        try:
            # A task of its own: anyio cancels again and again, and whoever cancels us counts how often that happened.
            await asyncio.create_task(self._answer(request, scope, _again(first, receive), send))
        finally:
            running = self._running.pop(request, None)
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def _answer(self, request: _Request, scope: Scope, receive: Receive, send: Send) -> None:
        async def on_list_tools(_: Any, __: PaginatedRequestParams | None) -> ListToolsResult:
            return self._listed(request)

        async def on_call_tool(_: Any, params: CallToolRequestParams) -> CallToolResult:
            return await self._called(request, params)

        server = Server("airlab", instructions=_INSTRUCTIONS, on_list_tools=on_list_tools, on_call_tool=on_call_tool)
        server.middleware.clear()  # a span of OpenTelemetry's for each message, which nobody reads
        # A manager for each request: its tasks end with it. Answers are JSON, since the SDK's streams come with a task
        # that wakes up twice a second for ever.
        manager = StreamableHTTPSessionManager(
            server, stateless=True, json_response=True, max_request_body_size=_BODY_BYTES
        )
        async with manager.run():
            await manager.handle_request(scope, receive, send)

    def _take_back(self, by: _Request, message_id: str) -> None:
        """Cancel the call of that id, where the same agent asked for it."""
        for request, running in self._running.items():
            if by.label and (request.label, request.actor, request.id) == (by.label, by.actor, message_id):
                running.cancel()

    def _listed(self, request: _Request) -> ListToolsResult:
        specs, _ = self._gate.offered()
        return ListToolsResult(tools=[_shown(spec) for spec in specs if request.why_not(spec) is None])

    async def _called(self, request: _Request, params: CallToolRequestParams) -> CallToolResult:
        policy = self._gate.policy
        if policy.closed is None:
            try:
                why = request.why_not(found(policy, params.name))
            except ToolNotFoundError as exc:
                raise MCPError(INVALID_PARAMS, exc.message) from exc
            if why is not None:
                return _said(f"Denied: {why}. Do without it, or tell the user.", is_error=True)
        if len(self._running) >= MOST_CALLS:
            return _said(f"AirLab runs {MOST_CALLS} calls of agents already. Try again in a moment.", is_error=True)
        call = ToolCall(f"call_{secrets.token_hex(6)}", params.name, _as_text(params.arguments))
        # Whoever has the admin key sees at /approvals what waits.
        calling = self._gate.call(call, actor=f"{request.actor.name} over mcp", approvals=lambda _: None)
        running = self._running[request] = asyncio.create_task(calling)
        try:
            # Shielded from anyio, which would cancel it again while it tells a server behind that it is taken back.
            result = await asyncio.shield(running)
        except asyncio.CancelledError:
            if running.cancelled():
                return _said("The call was taken back.", is_error=True)
            raise
        return _said(result.content, is_error=result.status != "ok")


def _read(body: bytes) -> _Message:
    try:
        return msgspec.json.decode(body, type=_Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Message()  # the SDK says what is wrong with it


def _label_of(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == _LABEL), "")


def _labelling(send: Send) -> Send:
    """``send``, with a label for the agent whose handshake is answered."""

    async def send_with_label(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            label = (_LABEL, secrets.token_hex(16).encode())
            message = {**message, "headers": [*message["headers"], label]}
        await send(message)

    return send_with_label


def _again(first: Message, receive: Receive) -> Receive:
    """``receive``, from the beginning once more."""
    kept = [first]

    async def receive_again() -> Message:
        return kept.pop() if kept else await receive()

    return receive_again


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
