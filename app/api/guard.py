"""The edge every request passes before anything else looks at it: who is addressed, who asks, how much is sent.

Pure ASGI round the whole application. It judges the head, reads the body once and bounded, hands both on, and cancels
the application when the client leaves. It knows no routes, no keys and no JSON; connections are ``protocol.py``'s.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field

from app.api.exchange import Exchange, Pace
from app.api.origin import host_allowed, machine_names, normal_origin, origin_allowed, parse_authority
from app.api.wire import ASGIApp, Message, Receive, RefusedError, Scope, Send
from app.fleet import ring
from app.units import KIB, MIB, format_bytes

# Most requests are over before they are first looked at; only the others get a timer or a task of their own, which
# would cost them more than all the checks together.
_LOOK_AFTER_S = 0.05

_SEC_FETCH = (b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"sec-fetch-user")
_JUDGED = frozenset(
    (
        b"host",
        b"origin",
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"access-control-request-headers",
        ring.HEADER,
        *_SEC_FETCH,
    )
)
_ALLOWED_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_ALLOWED_HEADERS = (
    b"Authorization, Content-Type, x-api-key, anthropic-version, anthropic-beta,"
    b" anthropic-dangerous-direct-browser-access, mcp-protocol-version, mcp-method, mcp-name"
)
# openai's clients send a handful of these, named anew with every release.
_STAINLESS = re.compile(rb"x-stainless-[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class EdgePolicy:
    """What the edge lets through; fixed when the service starts."""

    host_names: frozenset[str] = frozenset()
    """Names for the Host header besides IP addresses, localhost and this machine's own name; lower-case."""
    cors_origins: frozenset[str] = frozenset()
    """Origins whose pages may call us, besides our own."""
    body_limit_bytes: int = MIB
    body_limits_bytes: Mapping[str, int] = field(
        default_factory=lambda: {"/v1": 8 * MIB, "/chat": 8 * MIB, "/tools": 8 * MIB, "/mcp": 8 * MIB}
    )
    """Limits of their own for these paths and all below them."""
    header_limit_bytes: int = 32 * KIB
    header_count: int = 100
    body_deadline_s: float = 30.0
    """How long a body may take as a whole."""
    body_grace_s: float = 5.0
    """How long a body may take however little has come; each ``body_bytes_per_s`` received buys a further second."""
    body_bytes_per_s: int = KIB


class Guard:
    """ASGI application that lets good requests through to ``app``, and answers the others itself."""

    def __init__(self, app: ASGIApp, policy: EdgePolicy) -> None:
        """Guard ``app``. Raises ValueError when an origin of the policy is none."""
        self._app = app
        self._policy = policy
        self._names = machine_names(socket.gethostname()) | policy.host_names
        self._origins = frozenset(_normal_origins(policy.cors_origins))
        self._body_limits = tuple((path, f"{path}/", limit) for path, limit in policy.body_limits_bytes.items())
        self._pace = Pace(policy.body_grace_s, policy.body_bytes_per_s, policy.body_deadline_s)
        self._young: set[Exchange] = set()
        self._looking_in: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; lifespan passes through, WebSockets are refused."""
        if scope["type"] != "http":
            await self._serve_other(scope, receive, send)
            return
        try:
            head = read_head(scope, self._policy)
            origin = self._admit(head)
            # Always, since requests on one connection may share a context.
            ring.came_through(head.get(ring.HEADER, b""))
            if origin is not None:
                send = _answer_to(origin, send)
            if scope["method"] == "OPTIONS":
                await _answer_preflight(head, send)
                return
            body_limit_bytes = None
            if b"content-length" in head or b"transfer-encoding" in head:
                scope = _as_json(scope, head)
                body_limit_bytes = self._body_limit(scope["path"])
                check_length(head, body_limit_bytes)
            await self._serve(scope, receive, send, body_limit_bytes)
        except RefusedError as refused:
            await refused.answer(send, scope["path"])

    async def _serve(self, scope: Scope, receive: Receive, send: Send, body_limit_bytes: int | None) -> None:
        """Read the body, where there is one, and run the application; cancel it, once, if its client leaves too early.

        Returns normally after such a cancellation, when the application's own cleanup is done.
        """
        exchange = Exchange(receive, send, self._pace)
        self._look_later(exchange)
        try:
            if body_limit_bytes is None or await exchange.read_body(body_limit_bytes):
                await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.cancelled_by_us_alone():
                raise
        finally:
            self._young.discard(exchange)
            exchange.close()

    def _look_later(self, exchange: Exchange) -> None:
        """Look at all young exchanges together, so that one timer does for many requests."""
        self._young.add(exchange)
        loop = asyncio.get_running_loop()
        if self._looking_in is not loop:
            self._looking_in = loop
            loop.call_later(_LOOK_AFTER_S, self._look)

    def _look(self) -> None:
        self._looking_in = None
        for exchange in self._young:
            exchange.look()
        self._young.clear()

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    def _admit(self, head: dict[bytes, bytes]) -> bytes | None:
        """The origin to answer to, None when there is none. Raises RefusedError."""
        named = head.get(b"host")
        if named is None or b"," in named:
            raise RefusedError(400, "A request needs exactly one Host header.", closes=True)
        host = parse_authority(named)
        if host is None or not host_allowed(host, self._names):
            raise RefusedError(
                403,
                f"The Host header names {_shown(named)}, which is not this server. Use an IP address, localhost or this"
                " machine's own name, or add the name to server.hosts in airlab.yaml.",
                code="invalid_host",
            )
        origin = head.get(b"origin")
        if origin is not None:
            if origin_allowed(origin, host, self._origins):
                return origin
        elif head.get(b"sec-fetch-site") != b"cross-site":
            return None
        raise RefusedError(
            403,
            f"Pages of {'another site' if origin is None else _shown(origin)} may not call this server."
            " Add their origin to server.cors_origins in airlab.yaml to let them.",
            code="invalid_origin",
        )

    def _body_limit(self, path: str) -> int:
        for exact, below, limit in self._body_limits:
            if path == exact or path.startswith(below):
                return limit
        return self._policy.body_limit_bytes


def read_head(scope: Scope, policy: EdgePolicy) -> dict[bytes, bytes]:
    """The headers that the edge judges, by name; one that comes twice has its values joined by a comma.

    Raises:
        RefusedError: More header bytes (target, names, values and their punctuation) or headers than the policy allows.
    """
    headers = scope["headers"]
    size_bytes = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    head: dict[bytes, bytes] = {}
    for name, value in headers:
        size_bytes += len(name) + len(value) + 4
        if name in _JUDGED:
            head[name] = value if name not in head else head[name] + b"," + value
    if size_bytes > policy.header_limit_bytes or len(headers) > policy.header_count:
        allowed = f"{format_bytes(policy.header_limit_bytes)} or {policy.header_count} headers"
        raise RefusedError(431, f"The request's head is over {allowed}.", closes=True)
    return head


def _as_json(scope: Scope, head: dict[bytes, bytes]) -> Scope:
    """The scope of a request whose body may be read as JSON; others are refused. Raises RefusedError.

    A page can send text or a form to any server without asking, but not JSON; so JSON must be declared as such.
    ``curl -d`` declares a form: that is read as JSON when no browser had a hand in it.
    """
    if scope["method"] not in ("POST", "PUT", "PATCH") or head.get(b"content-length") == b"0":
        return scope
    declared = head.get(b"content-type", b"")
    media_type = declared.partition(b";")[0].strip().lower()
    if media_type == b"application/json":
        return scope
    from_browser = b"origin" in head or any(name in head for name in _SEC_FETCH)
    if from_browser or media_type not in (b"", b"application/x-www-form-urlencoded"):
        raise RefusedError(
            415, f"The body is declared as {_shown(declared)}. Add the header Content-Type: application/json."
        )
    others = [header for header in scope["headers"] if header[0] != b"content-type"]
    return {**scope, "headers": [*others, (b"content-type", b"application/json")]}


def check_length(head: dict[bytes, bytes], limit_bytes: int) -> None:
    """Refuse a body by its declared length, before any of it is read. Raises RefusedError."""
    declared = head.get(b"content-length", b"0")
    if not declared.isdigit():
        raise RefusedError(400, "Content-Length must be one number of bytes.", closes=True)
    if len(declared) > 18 or int(declared) > limit_bytes:
        # A client that waits for "100 Continue" may now send its body or not: only closing is safe. Any other body is
        # on its way; the protocol reads and drops it, so that its sender gets to see the answer.
        raise RefusedError(413, f"The body is over {format_bytes(limit_bytes)}.", closes=b"expect" in head)


def _normal_origins(origins: Iterable[str]) -> Iterable[bytes]:
    for origin in origins:
        normal = normal_origin(origin.encode())
        if normal is None:
            raise ValueError(f"{origin!r} is no origin; write one like http://localhost:3000")
        yield normal


def _shown(value: bytes) -> str:
    return repr(value[:100].decode("latin-1"))


def _answer_to(origin: bytes, send: Send) -> Send:
    """``send``, with what a browser needs to show the answer, or the error, to a page of ``origin``."""

    def send_with_origin(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            allowed = (b"access-control-allow-origin", origin)
            message = {**message, "headers": [*message.get("headers", ()), allowed, (b"vary", b"Origin")]}
        return send(message)

    return send_with_origin


async def _answer_preflight(head: dict[bytes, bytes], send: Send) -> None:
    """Answer OPTIONS for every route, keys or not: a browser sends none when it asks."""
    headers = [(b"access-control-allow-methods", _ALLOWED_METHODS)] if b"origin" in head else []
    if headers:
        asked = head.get(b"access-control-request-headers", b"").lower().split(b",")
        echoed = [name.strip() for name in asked if _STAINLESS.fullmatch(name.strip())]
        headers.append((b"access-control-allow-headers", b", ".join((_ALLOWED_HEADERS, *echoed))))
        headers.append((b"access-control-max-age", b"600"))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
