"""guard(Litestar(api)), with /v1 and /mcp beside Litestar: the whole of AirLab as one ASGI application."""

from __future__ import annotations

from urllib.parse import unquote

from app.api.auth import Auth
from app.api.guard import EdgePolicy, Guard
from app.api.mcp import PATH as MCP
from app.api.mcp import McpApp
from app.api.openai import OpenAIApp
from app.api.routes import owner_app
from app.api.sessions import SLASH
from app.api.wire import ASGIApp, Receive, Scope, Send
from app.service import Service


def build_app(service: Service) -> ASGIApp:
    """The application of a service that whoever serves it starts and stops."""
    auth = Auth(service.settings)
    openai, mcp, owner = OpenAIApp(service, auth), McpApp(service, auth), owner_app(service, auth)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        # /v1 is the hot path: Litestar's router would cost it more than the rest of us does.
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            await openai(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == MCP:
            await mcp(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "HEAD":
            # As GET, whose body the protocol leaves out: Litestar would want a second handler for each page.
            await owner(_routed({**scope, "method": "GET"}), receive, send)  # type: ignore[arg-type] # see below
        else:
            await owner(_routed(scope), receive, send)  # type: ignore[arg-type] # Litestar's own names for the same shapes

    server = service.server
    policy = EdgePolicy(host_names=frozenset(server.hosts), cors_origins=frozenset(server.cors_origins))
    return Guard(dispatch, policy)


def _routed(scope: Scope) -> Scope:
    """The scope with a path in which a slash that belongs to a session's id does not part it."""
    raw = scope.get("raw_path", b"")
    if not raw.startswith(b"/sessions/") or b"%2f" not in raw.lower():
        return scope
    parts = (unquote(part.decode("latin-1")).replace("/", SLASH) for part in raw.split(b"/"))
    return {**scope, "path": "/".join(parts)}
