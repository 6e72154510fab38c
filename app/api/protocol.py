"""One connection: how many there may be, how long a head may take, which heads never become a request.

uvicorn's protocol on httptools, with what both leave out. It knows framing and nothing else: which Host or Origin is
welcome, and how fast a body must come, is for ``guard.py``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.origin import parse_authority
from app.api.wire import error_body
from app.units import KIB, format_bytes

Headers = list[tuple[bytes, bytes]]


def uvicorn_options(*, connection_cap: int = 200, peer_cap: int = 50) -> dict[str, Any]:
    """What the edge needs of ``uvicorn.Config``, as keywords: our protocol with these caps, and no proxy headers.

    uvicorn believes X-Forwarded-For from loopback unless told otherwise: any local client could choose its address.
    """
    caps = {"connection_cap": connection_cap, "peer_cap": peer_cap}
    return {
        "http": type("CappedProtocol", (GuardedProtocol,), caps),
        "ws": "none",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
    }


class HeadRefusedError(Exception):
    """A request's head that is not passed on; ``args`` are the status and the message to answer with."""


class GuardedProtocol(HttpToolsProtocol):
    """A connection that is closed when its client overstays or says something with two meanings."""

    connection_cap = 200
    """Connections at the same time, lingering ones included."""
    peer_cap = 50
    """The same for one peer address; a reverse proxy or a published port makes all its clients one address."""
    head_deadline_s = 10.0
    """From the first byte (of a new connection: from its start) to the end of the head."""
    idle_deadline_s = 15.0
    """Between an answer and the first byte of the next request."""
    unread_s = 60.0
    """How long an answer may wait for a client that does not read it."""
    linger_s = 1.0
    """How long a refused client may go on sending: closing under it would destroy the answer it has yet to read."""
    header_limit_bytes = 32 * KIB
    header_count = 100

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take uvicorn's arguments; its keep-alive timeout is replaced by ours."""
        super().__init__(config, server_state, app_state, _loop)
        self.timeout_keep_alive = self.idle_deadline_s  # type: ignore[assignment] # call_later takes fractions too
        self._serving: RequestResponseCycle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._refused = False
        self._digested = False
        self._undigested_bytes = 0
        self._packet_bytes = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn types it
        """Take the connection, unless there are too many; then close it at once."""
        others = self.server_state.connections
        super().connection_made(transport)
        address = self.peer
        from_peer = sum(1 for other in others if isinstance(other, GuardedProtocol) and other.peer == address)
        if len(others) > self.connection_cap or (address is not None and from_peer > self.peer_cap):
            self.logger.warning("connection refused peer=%s open=%d from_peer=%d", address, len(others), from_peer)
            self._refused = True
            transport.abort()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request of this connection, not only the newest, that its client left."""
        self._cancel_deadline()
        if self._unread is not None:
            self._unread.cancel()
        self._abandon_requests()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: it may hold its answer, and a model's slot with it, for so long and no longer."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and refuse what it, or we, cannot accept."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._digested = False
        self._packet_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as exc:
            refused = exc.__context__
            if not isinstance(refused, HeadRefusedError):
                refused = HeadRefusedError(400, f"The request is not valid HTTP/1.1: {exc}.")
            self._refuse(*refused.args)
            return
        self._undigested_bytes = 0 if self._digested else self._undigested_bytes + len(data)
        if self._undigested_bytes > self.header_limit_bytes:
            self._refuse(431, self._too_large())
        elif self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()

    @property
    def peer(self) -> str | None:
        """The address at the other end; None on a unix socket."""
        return self.client[0] if self.client else None

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_deadline_s, self.transport.close)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _abandon_requests(self) -> None:
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (self._serving, self.cycle, *waiting):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    # Refusals

    def _refuse(self, status: int, message: str) -> None:
        """Answer, stop serving this connection and close it; nothing that was pipelined behind is looked at."""
        self.logger.info("request refused status=%d reason=%s", status, message)
        self._refused = True
        self._cancel_deadline()
        serving = self._serving
        answering = serving is not None and serving.response_started and not serving.response_complete
        self._abandon_requests()
        if answering or not self.transport.can_write_eof():
            # Our words in the middle of another answer would be read as part of it.
            self.transport.abort()
            return
        body = error_body(message, "invalid_request_error")
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.write_eof()
        self._deadline = self.loop.call_later(self.linger_s, self.transport.abort)

    def _too_large(self) -> str:
        return f"The request's head is over {format_bytes(self.header_limit_bytes)} or {self.header_count} headers."

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again as if it had not asked to become another protocol, which HTTP lets a server do.

        The parser takes what follows such a head for that protocol: without this, the body that Java's HttpClient
        sends along with its wish for HTTP/2 would be read as the next request.
        """
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn sets it: what follows a request that closes the connection is dropped, not an error.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    # The parser's news

    def on_headers_complete(self) -> None:
        """Judge the head, and make it a request. Raises HeadRefusedError, which ends the parsing."""
        self._digested = True
        if self.parser.get_method() == b"CONNECT":
            raise HeadRefusedError(400, "This server is no proxy: CONNECT is not served.")
        if self.parser.should_upgrade():
            return
        may_be_large = self._undigested_bytes + self._packet_bytes > self.header_limit_bytes
        size_bytes = head_bytes(self.url, self.headers) if may_be_large else 0
        if size_bytes > self.header_limit_bytes or len(self.headers) > self.header_count:
            raise HeadRefusedError(431, self._too_large())
        check_host(self.url, self.headers)
        self._cancel_deadline()
        super().on_headers_complete()
        # Trailers are reported like headers, but come after these were judged: they must not slip in behind them.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._digested = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless it is to be read again without its upgrade."""
        self._digested = True
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse in our own shape."""
        self._refuse(400, msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._serving = cycle
        super()._start_asgi_task(cycle, app)


def head_bytes(url: bytes, headers: Headers) -> int:
    """What a head takes on the wire, in bytes, without its method and version."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def check_host(url: bytes, headers: Headers) -> None:
    """Refuse a head that does not say once and unmistakably whom it is for.

    Raises:
        HeadRefusedError: No Host header, or two; or the URL names another host, which ASGI would not show to anyone.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise HeadRefusedError(400, f"A request needs exactly one Host header; this one has {len(hosts)}.")
    if url[:1] in (b"/", b"*"):
        return
    target = httptools.parse_url(url)
    named = b"[%b]" % target.host if b":" in target.host else target.host
    addressed, host = parse_authority(named), parse_authority(hosts[0])
    if host is None or addressed is None or target.userinfo or target.path is None:
        raise HeadRefusedError(400, "The request's URL is not one this server can read.")
    if (addressed.name, target.port or 80) != (host.name, host.port or 80):
        raise HeadRefusedError(400, "The request's URL and its Host header name different hosts.")
