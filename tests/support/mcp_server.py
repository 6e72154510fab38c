"""A real MCP server, written with the SDK: over its standard streams, or at a port as streamable HTTP.

``add_tool`` makes it offer one tool more, ``die`` ends it in the middle of the call.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("test")


def _touch(file: str) -> None:
    if file:
        Path(file).touch()


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def search(text: str, count: int = 1) -> str:
    """Search for a text."""
    return f"{count} times {text}"


@server.tool()
def table() -> dict[str, int]:
    """Give a structure."""
    return {"a": 1}


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("no such thing")


@server.tool()
def environment() -> list[str]:
    """Tell the names in the environment."""
    return sorted(os.environ)


@server.tool()
def huge() -> str:
    """Say too much."""
    return "x" * 200_000


@server.tool()
def flood() -> str:
    """Say far too much."""
    return "x" * 3_000_000


@server.tool()
async def never(begun: str = "", taken_back: str = "") -> str:
    """Never answer; make a file when it begins, and one when it is taken back."""
    _touch(begun)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        _touch(taken_back)
        raise
    return ""


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


@server.tool()
async def add_tool(context: Context) -> str:
    """Offer one tool more."""

    def later() -> str:
        """Was added later."""
        return "late"

    server.add_tool(later)
    await context.notify_tools_changed()  # to who listens, as since 2026-07-28
    await context.session.send_tool_list_changed()  # to everybody, as before
    return "added"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
