"""The MCP servers that the manifest declares: kept connected, their tools offered, one call of one.

A server is a program that its owner chose, and runs with AirLab's rights: no wall of ours holds it. What it says is
hostile until checked, in ``mcpoffer.py``.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from app.errors import ToolError
from app.journal import Fact, Journal, Trouble
from app.manifest.tool_sections import McpServerSection
from app.process import Child
from app.tasks import all_ended
from app.tools.base import SERVED, ToolSpec
from app.tools.mcpoffer import WHY_CHARACTERS, answer, offered, short
from app.units import format_duration

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client._transport import TransportStreams
    from mcp.types import Tool

_CONNECT_S, _LIST_S = 60.0, 30.0
_MOST_PAGES, _MOST_TOOLS = 20, 200
_LONGEST_WAIT_S, _LISTEN_AGAIN_S, _CALM_S = 60.0, 5.0, 0.1


@dataclass(frozen=True, slots=True)
class McpConnected(Fact):
    """A server answers, and offers these tools."""

    server: str
    tools: str


@dataclass(frozen=True, slots=True)
class McpLost(Trouble):
    """A server does not answer; it is tried again."""

    server: str
    why: str
    again_s: float


class McpServers:
    """Keeps one connection to each server. No method but ``call`` and ``close`` waits for one."""

    def __init__(
        self,
        journal: Journal,
        folder: Path = Path("/"),
        *,
        first_wait_s: float = 1.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started before ``keep``.

        Args:
            journal: Learns of servers that come and go.
            folder: Where the programs of servers are started.
            first_wait_s: After a failure; it doubles, up to a minute.
            headers: Sent to every server that has a URL, beside those of its section.
        """
        self._journal, self._folder, self._first_wait_s = journal, folder, first_wait_s
        self._headers = headers or {}
        self._servers: dict[str, _Server] = {}
        self._specs: dict[str, ToolSpec] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def keep(self, servers: Mapping[str, McpServerSection]) -> None:
        """Keep exactly these connected: others end, one whose section changed begins anew. Done in the background."""
        for name, server in list(self._servers.items()):
            if servers.get(name) != server.section:
                ending = asyncio.create_task(self._servers.pop(name).close())
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
        for name, section in servers.items():
            if name not in self._servers:
                server = _Server(name, section, self._journal, self._folder, self._headers, self._renew)
                server.begin(self._first_wait_s)
                self._servers[name] = server
        self._renew()

    def specs(self) -> Mapping[str, ToolSpec]:
        """The tools of the servers that are connected; the same object until they change."""
        return self._specs

    def status(self) -> dict[str, str]:
        """How each server is, in words."""
        return {name: server.status for name, server in self._servers.items()}

    async def call(self, spec: ToolSpec, arguments: Mapping[str, Any], timeout_s: float) -> str:
        """Have a server run one call; a cancelled call is cancelled there, too.

        Args:
            spec: One of ``specs``.
            arguments: Values that fit its schema.
            timeout_s: Seconds until the call is given up.

        Returns:
            What came back, as JSON: ``content``, and ``truncated`` where that is not all.

        Raises:
            ToolError: The server said no, or did not answer, or is not connected.
        """
        server = self._servers.get(spec.entry.removeprefix(SERVED))
        if server is None:
            raise ToolError(f"{spec.name} is not offered any more. Do without it.", code="not_connected")
        try:
            async with asyncio.timeout(timeout_s):
                return await server.call(spec, arguments)
        except TimeoutError as exc:
            message = f"{spec.name} took longer than {format_duration(timeout_s)} and was given up. Ask for less."
            raise ToolError(message, code="timeout") from exc

    async def close(self) -> None:
        """End every server; nothing is left when this returns."""
        self.keep({})
        await all_ended(self._ending)

    def _renew(self) -> None:
        found = {name: spec for server in self._servers.values() for name, spec in server.specs.items()}
        if found != self._specs:
            self._specs = found


class _Server:
    """One server, and the task that keeps it connected."""

    def __init__(
        self,
        name: str,
        section: McpServerSection,
        journal: Journal,
        folder: Path,
        headers: Mapping[str, str],
        changed: Callable[[], None],
    ) -> None:
        self.section = section
        self.status = "connecting"
        self.specs: dict[str, ToolSpec] = {}
        self._name, self._journal, self._folder, self._changed = name, journal, folder, changed
        self._headers = headers
        self._client: Client | None = None
        self._children: set[Child] = set()
        self._stir = asyncio.Event()
        """Set when there may be news: another list of tools, a fault, the end."""
        self._gone = self._was_up = self._closing = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, first_wait_s: float) -> None:
        self._task = asyncio.create_task(self._keep_connected(first_wait_s))

    async def close(self) -> None:
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for child in tuple(self._children):
            await child.stop(grace_s=0)

    async def call(self, spec: ToolSpec, arguments: Mapping[str, Any]) -> str:
        from mcp import MCPError  # noqa: PLC0415 # imported already: it is connected
        from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult  # noqa: PLC0415

        settings = json.loads(spec.settings)
        if self._client is None:
            raise ToolError(f"{self._name} is not connected now. Try again in a while.", code="not_connected")
        request = CallToolRequest(params=CallToolRequestParams(name=settings["tool"], arguments=dict(arguments)))
        try:
            # Not Client.call_tool: it checks the answer against a schema of the server's, which may take forever.
            result = await self._client.session.send_request(request, CallToolResult)
        except MCPError as exc:
            self._stir.set()
            raise ToolError(f"{self._name} says: {short(exc)}. Try another way.", code="tool_error") from exc
        except Exception as exc:
            self._stir.set()
            why = f"{self._name} broke off ({type(exc).__name__}). Try again in a while."
            raise ToolError(why, code="not_connected") from exc
        return answer(result, settings["max_answer"])

    async def _keep_connected(self, first_wait_s: float) -> None:
        wait_s, said = first_wait_s, ""
        while True:
            self._was_up = False
            try:
                await self._connected()
                why = "it closed the connection"
            except Exception as exc:  # noqa: BLE001 # whatever a server or the SDK does, it is tried again
                why = _reason(exc)
            if self._closing:
                # Cancelled in the moment in which it broke off: a task group of the SDK's tells the failure alone.
                return
            if self._was_up:
                wait_s, said = first_wait_s, ""
            self._offer({}, f"not connected: {why}; tried again {format_duration(wait_s)} later")
            if why != said:
                self._journal.note(McpLost(self._name, why, wait_s))
            said = why
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _connected(self) -> None:
        """From the first word to the last."""
        await asyncio.to_thread(importlib.import_module, "mcp")
        from mcp import Client  # noqa: PLC0415 # half a second and 56 MiB, for those who declare a server

        wire = await asyncio.to_thread(importlib.import_module, "app.tools.mcpwire")
        self._gone = False
        client = Client(self._way(wire), cache=None, message_handler=self._hear)
        async with asyncio.timeout(_CONNECT_S) as limit, client:
            limit.reschedule(None)
            listening = asyncio.create_task(self._listen(client))
            try:
                while not self._gone:
                    self._stir.clear()
                    async with asyncio.timeout(_LIST_S):
                        tools = await _listed(client)
                    self._client, self._was_up = client, True
                    self._offer(*offered(self._name, self.section, tools))
                    await self._stir.wait()
                    # A server that never stops changing its list is not asked without end.
                    await asyncio.sleep(_CALM_S)
            finally:
                self._client = None
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    def _way(self, wire: ModuleType) -> AbstractAsyncContextManager[TransportStreams]:
        way: AbstractAsyncContextManager[TransportStreams]
        if self.section.command is not None:
            names = [name for name in ("PATH", "HOME") if name in os.environ]
            environment = {name: _from_environment(name) for name in (*names, *self.section.environment)}
            way = wire.started(self.section.command, environment, self._folder, self._children, self._ended)
        else:
            headers = {
                name: value if isinstance(value, str) else value.prefix + _from_environment(value.env)
                for name, value in self.section.headers.items()
            }
            way = wire.asked(self.section.url, {**headers, **self._headers})
        return way

    def _ended(self) -> None:
        self._gone = True
        self._stir.set()

    async def _hear(self, message: Any) -> None:
        if getattr(message, "method", None) == "notifications/tools/list_changed":
            self._stir.set()

    async def _listen(self, client: Client) -> None:
        """Since version 2026-07-28 of the protocol, who wants to hear of changes has to say so."""
        from mcp import MCPError  # noqa: PLC0415 # imported already
        from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost  # noqa: PLC0415

        with suppress(ListenNotSupportedError, MCPError, TimeoutError):  # it does not do that
            while True:
                with suppress(SubscriptionLost):
                    async with client.listen(tools_list_changed=True) as changes:
                        async for _ in changes:
                            self._stir.set()
                # Whatever ended it, a change may have been missed.
                self._stir.set()
                await asyncio.sleep(_LISTEN_AGAIN_S)

    def _offer(self, specs: dict[str, ToolSpec], words: str) -> None:
        if specs and words != self.status:
            self._journal.note(McpConnected(self._name, ", ".join(specs)[:WHY_CHARACTERS]))
        self.specs, self.status = specs, words
        self._changed()


async def _listed(client: Client) -> list[Tool]:
    found: list[Tool] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None or len(found) >= _MOST_TOOLS:
            break
    return found[:_MOST_TOOLS]


def _from_environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ToolError(f"{name} is not set in AirLab's environment", code="not_configured")
    return value


def _reason(exc: BaseException) -> str:
    """Why a connection ended: of a group, what happened first."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return " ".join(short(exc).split()) or type(exc).__name__
