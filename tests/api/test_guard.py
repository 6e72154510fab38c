"""The guard without a network: who may ask, what a page's browser is told, and who is cancelled when."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.guard import EdgePolicy, Guard
from app.api.origin import Authority, host_allowed, machine_names, normal_origin, origin_allowed, parse_authority
from app.api.wire import Message, Receive, Scope, Send, error_body

WAIT_S = 10.0
PAGE = "http://ui.lan:3000"
POLICY = EdgePolicy(host_names=frozenset({"box.lan"}), cors_origins=frozenset({PAGE, "app://obsidian.md"}))
JSON = {"content-type": "application/json"}


@dataclass
class Client:
    """The other side of one ASGI request: what it sends, when it leaves, what it was told."""

    messages: list[Message]
    left: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.told.append(message)

    @property
    def status(self) -> int:
        status: int = self.told[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.told[0]["headers"]}

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.told[1]["body"])["error"]
        return error


def http_scope(method: str = "GET", path: str = "/", **headers: str) -> Scope:
    """A request's scope; ``_`` in a header's name stands for ``-``, and localhost is the host unless named."""
    named = {"host": "localhost:8080"} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": raw,
    }


class EchoApp:
    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.bodies.append(await receive())
        await send({"type": "http.response.start", "status": 404, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"{}"})


async def ask(scope: Scope, *pieces: bytes, policy: EdgePolicy = POLICY, app: EchoApp | None = None) -> Client:
    """Send one request, its body in ``pieces``, through a guard."""
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces or (b"",)]
    messages[-1]["more_body"] = False
    client = Client(messages)
    await asyncio.wait_for(Guard(app or EchoApp(), policy)(scope, client.receive, client.send), WAIT_S)
    return client


# Origins


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil"},
        {"origin": "null"},
        {"origin": "*"},
        {"origin": ""},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost"},
        {"origin": f"{PAGE} https://evil"},
        {"origin": f"{PAGE}.evil"},
        {"sec_fetch_site": "cross-site"},
        {"origin": "https://evil", "sec_fetch_site": "same-origin", "x_forwarded_host": "evil"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_fault_036_037_foreign_pages_are_refused_and_may_not_read_why(
    method: str, headers: dict[str, str]
) -> None:
    app = EchoApp()
    client = await ask(http_scope(method, **headers), app=app)

    assert (client.status, client.error["type"], app.scopes) == (403, "permission_error", [])
    assert not [name for name in client.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://localhost:8080"},
        {"origin": "https://localhost:8080"},
        {"origin": "HTTP://LOCALHOST:8080"},
        {"origin": "http://box.lan", "host": "box.lan"},
        {"origin": "https://box.lan", "host": "box.lan"},
        {"origin": "https://box.lan", "host": "box.lan:443"},
        {"origin": "http://[::1]:8080", "host": "[::1]:8080"},
        {"origin": PAGE, "sec_fetch_site": "cross-site"},
        {"origin": "app://obsidian.md"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
    ],
)
async def test_our_own_pages_and_listed_ones_pass(headers: dict[str, str]) -> None:
    assert (await ask(http_scope(**headers))).status == 404


async def test_answers_and_errors_can_be_read_by_a_listed_page() -> None:
    """A browser that may not show an error tells its user only that something failed."""
    answer = await ask(http_scope(origin=PAGE))
    unsupported = await ask(http_scope("POST", origin=PAGE, content_type="text/plain", content_length="2"), b"{}")
    too_large = await ask(http_scope("POST", origin=PAGE, content_length="99999999", **JSON))

    for client, status in ((answer, 404), (unsupported, 415), (too_large, 413)):
        assert client.status == status
        assert client.headers["access-control-allow-origin"] == PAGE
        assert client.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in client.headers
    assert answer.headers["x-app"] == "1"


async def test_preflight_is_answered_on_any_route_without_asking_the_application() -> None:
    app = EchoApp()
    asked = "authorization, X-Stainless-Retry-Count,x-stainless-os, x-evil, x-stainless-\x01"
    scope = http_scope("OPTIONS", "/no/such/route", origin=PAGE, access_control_request_headers=asked)
    client = await ask(scope, app=app)

    assert (client.status, app.scopes) == (204, [])
    assert client.headers["access-control-allow-origin"] == PAGE
    assert "POST" in client.headers["access-control-allow-methods"]
    assert client.headers["access-control-allow-headers"] == (
        "Authorization, Content-Type, x-api-key, anthropic-version, anthropic-beta,"
        " anthropic-dangerous-direct-browser-access, mcp-protocol-version, mcp-method, mcp-name,"
        " x-stainless-retry-count, x-stainless-os"
    )


def test_an_origin_that_is_none_is_refused_when_the_guard_is_built() -> None:
    with pytest.raises(ValueError, match="write one like"):
        Guard(EchoApp(), EdgePolicy(cors_origins=frozenset({"localhost:3000"})))


# Heads


@pytest.mark.parametrize(
    "headers", [[], [(b"host", b"localhost"), (b"host", b"localhost")], [(b"host", b"localhost,localhost")]]
)
async def test_fault_033_one_host_is_needed_under_any_server(headers: list[tuple[bytes, bytes]]) -> None:
    client = await ask({**http_scope(), "headers": headers})

    assert (client.status, client.headers["connection"]) == (400, "close")


async def test_fault_040_large_heads_are_refused_under_any_server() -> None:
    many = await ask({**http_scope(), "headers": [(b"host", b"localhost")] + [(b"x", b"")] * 100})

    assert (await ask(http_scope(x="a" * 40_000))).status == 431
    assert (await ask(http_scope(path="/" + "a" * 40_000))).status == 431
    assert many.status == 431
    assert many.headers["connection"] == "close"


# Bodies


@pytest.mark.parametrize("declared", [{}, {"content_type": "application/x-www-form-urlencoded"}])
async def test_plain_curl_is_read_as_json(declared: dict[str, str]) -> None:
    """``curl -d`` declares a form; no page is behind it, since a browser says so."""
    app = EchoApp()
    client = await ask(http_scope("POST", content_length="2", **declared), b"{}", app=app)

    assert client.status == 404
    assert [value for name, value in app.scopes[0]["headers"] if name == b"content-type"] == [b"application/json"]


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_type": "application/jsonp"},
        {"content_type": "application/json, text/plain"},
        {"content_type": "application/x-www-form-urlencoded", "origin": "http://localhost:8080"},
        {"content_type": "application/x-www-form-urlencoded", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site"},
    ],
)
@pytest.mark.parametrize("framing", [{"content_length": "2"}, {"transfer_encoding": "chunked"}])
async def test_fault_038_what_a_page_can_send_unasked_is_no_json(
    headers: dict[str, str], framing: dict[str, str]
) -> None:
    client = await ask(http_scope("POST", **headers, **framing), b"{}")

    assert (client.status, "Content-Type: application/json" in client.error["message"]) == (415, True)


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_body_is_handed_on_as_one_message(content_type: str) -> None:
    app = EchoApp()
    await ask(http_scope("POST", content_type=content_type, content_length="6"), b"[1", b"", b",2]\n", app=app)

    assert app.bodies == [{"type": "http.request", "body": b"[1,2]\n", "more_body": False}]


async def test_post_without_a_body_needs_no_content_type() -> None:
    assert (await ask(http_scope("POST"))).status == 404
    assert (await ask(http_scope("POST", content_length="0"))).status == 404


@pytest.mark.parametrize(
    ("path", "status"), [("/v1", 404), ("/v1/x", 404), ("/chat", 404), ("/v11", 413), ("/chats/x", 413), ("/", 413)]
)
async def test_fault_043_limits_hold_for_a_path_and_what_is_below_it(path: str, status: int) -> None:
    piece = b" " * 2**20
    declared = await ask(http_scope("POST", path, content_length=str(2 * 2**20), **JSON), piece, piece)
    chunked = await ask(http_scope("POST", path, transfer_encoding="chunked", **JSON), piece, piece)

    assert (declared.status, chunked.status) == (status, status)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_refusal_on_a_path_of_anthropics_has_their_shape(path: str) -> None:
    headers = {"content_length": str(9 * 2**20), **JSON}
    client = await ask(http_scope("POST", path, **headers), b"{")

    told = json.loads(client.told[1]["body"])
    assert client.status == 413
    assert told == {"type": "error", "error": {"type": "request_too_large", "message": "The body is over 8.0 MiB."}}


@pytest.mark.parametrize("length", ["+2", "-1", "2,2", "x", "", "9" * 5000])
async def test_content_length_that_is_no_number_is_refused(length: str) -> None:
    client = await ask(http_scope("POST", content_length=length, **JSON), b"{}")

    assert client.status == (413 if length.isdigit() else 400)


async def test_fault_046_expecting_client_is_closed_after_a_refusal() -> None:
    """It may send the body nevertheless, and that would be read as its next request."""
    client = await ask(http_scope("POST", content_length="99999999", expect="100-continue", **JSON))

    assert (client.status, client.headers["connection"]) == (413, "close")


async def test_fault_041_body_that_stalls_is_answered_408() -> None:
    app = EchoApp()
    client = Client([{"type": "http.request", "body": b"{", "more_body": True}])
    guard = Guard(app, EdgePolicy(body_grace_s=0.05))
    scope = http_scope("POST", content_length="2", **JSON)
    await asyncio.wait_for(guard(scope, client.receive, client.send), WAIT_S)

    assert (client.status, client.headers["connection"], app.scopes) == (408, "close", [])


async def test_client_that_leaves_in_its_body_reaches_nobody() -> None:
    app = EchoApp()
    client = Client([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    await Guard(app, POLICY)(http_scope("POST", content_length="2", **JSON), client.receive, client.send)

    assert (client.told, app.scopes) == ([], [])


# Clients that leave


class HangingApp:
    """Answers at most its beginning, then hangs; notes how it ended."""

    def __init__(self, *, streaming: bool) -> None:
        self.streaming = streaming
        self.started = asyncio.Event()
        self.end = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self.streaming:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"data", "more_body": True})
            self.started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.end = "cancelled"
            raise
        finally:
            await asyncio.sleep(0)
            self.end += ", cleaned up"


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streaming"])
async def test_application_is_cancelled_and_cleans_up_when_its_client_leaves(streaming: bool) -> None:
    app, client = HangingApp(streaming=streaming), Client([])
    task = asyncio.create_task(Guard(app, POLICY)(http_scope(), client.receive, client.send))
    await asyncio.wait_for(app.started.wait(), WAIT_S)
    client.left.set()
    await asyncio.wait_for(task, WAIT_S)

    assert app.end == "cancelled, cleaned up"
    assert task.cancelling() == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_client_that_leaves_after_a_body_that_took_its_time_is_noticed_too() -> None:
    """Such a request was looked at while its body came; the watch must begin all the same."""
    app, client = HangingApp(streaming=False), Client([])
    guard = Guard(app, POLICY)
    pieces = iter((b"{", b"}"))

    async def receive() -> Message:
        piece = next(pieces, None)
        if piece is None:
            await app.started.wait()
            return {"type": "http.disconnect"}
        while piece == b"}" and guard._young:  # noqa: ASYNC110 # the guard has no event for "looked at"
            await asyncio.sleep(0)
        return {"type": "http.request", "body": piece, "more_body": piece == b"{"}

    await asyncio.wait_for(guard(http_scope("POST", content_length="2", **JSON), receive, client.send), WAIT_S)

    assert app.end == "cancelled, cleaned up"


async def test_cancellation_by_the_server_is_not_swallowed() -> None:
    app, client = HangingApp(streaming=False), Client([])
    task = asyncio.create_task(Guard(app, POLICY)(http_scope(), client.receive, client.send))
    await asyncio.wait_for(app.started.wait(), WAIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, WAIT_S)

    assert app.end == "cancelled, cleaned up"


async def test_work_after_the_answer_is_not_cancelled() -> None:
    """Giving a lease back, or closing a turn, comes after the last byte."""
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        assert (await receive())["type"] == "http.disconnect"
        await asyncio.sleep(0)
        done.set()

    client = Client([])
    client.left.set()
    await asyncio.wait_for(Guard(app, POLICY)(http_scope(), client.receive, client.send), WAIT_S)

    assert done.is_set()


async def test_application_that_listens_itself_hears_of_the_end() -> None:
    """Litestar's streaming answers wait for a disconnect, or for their own end, beside the stream."""
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])
        client.left.set()
        heard.append((await receive())["type"])

    client = Client([])
    await asyncio.wait_for(Guard(app, POLICY)(http_scope(), client.receive, client.send), WAIT_S)

    assert heard[0] == "http.request"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_fault_of_the_application_passes_through() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the application failed")

    client = Client([])
    with pytest.raises(RuntimeError, match="the application failed"):
        await Guard(app, POLICY)(http_scope(), client.receive, client.send)


async def test_short_requests_need_no_task_of_their_own() -> None:
    """A task a request would cost more than all the checks together."""
    tasks: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        tasks.append(len(asyncio.all_tasks()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    client = Client([])
    await Guard(app, POLICY)(http_scope(), client.receive, client.send)

    assert tasks == [1]


# Other scopes


async def test_websockets_are_refused_and_lifespan_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    client = Client([{"type": "websocket.connect"}])
    guard = Guard(app, POLICY)
    await guard({"type": "websocket", "headers": []}, client.receive, client.send)
    await guard({"type": "lifespan"}, client.receive, client.send)

    assert [message["type"] for message in client.told] == ["websocket.close"]
    assert seen == ["lifespan"]


# Names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"localhost", Authority("localhost", None, is_ip=False)),
        (b"LocalHost.:8080", Authority("localhost", 8080, is_ip=False)),
        (b"127.0.0.1", Authority("127.0.0.1", None, is_ip=True)),
        (b"[::1]:8080", Authority("::1", 8080, is_ip=True)),
        (b"[0:0::0:1]", Authority("::1", None, is_ip=True)),
        (b"[::ffff:127.0.0.1]", Authority("::ffff:7f00:1", None, is_ip=True)),
        (b"127.1", Authority("127.1", None, is_ip=False)),
        (b"0x7f000001", Authority("0x7f000001", None, is_ip=False)),
    ],
)
def test_authority_is_read_in_one_spelling(text: bytes, expected: Authority) -> None:
    parsed = parse_authority(text)

    assert parsed is not None
    # Python 3.13 prints mapped addresses with their dotted part.
    assert (parsed.name.replace("127.0.0.1", "7f00:1") if text[:1] == b"[" else parsed.name) == expected.name
    assert (parsed.port, parsed.is_ip) == (expected.port, expected.is_ip)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b".",
        b":80",
        b"localhost:",
        b"localhost:65536",
        b"localhost:+80",
        b"localhost:8080@evil",
        b"evil@localhost",
        b"localhost/",
        b"localhost evil",
        b"localhost\n",
        b"localhost,evil",
        b"::1",
        b"[::1",
        b"[::1]evil",
        b"[::1%25eth0]",
        b"[localhost]",
        b"[127.0.0.1]",
        b"l\xc3\xb6calhost",
    ],
)
def test_anything_but_host_and_port_is_no_authority(text: bytes) -> None:
    assert parse_authority(text) is None


@given(st.binary(max_size=60) | st.from_regex(rb"\A[][a-z0-9.:@%-]{0,20}\Z"))
def test_only_exact_names_and_addresses_are_ever_allowed(text: bytes) -> None:
    """Whatever a Host holds, it never gets past by looking like one of our names."""
    host = parse_authority(text)
    if host is not None and not host.is_ip and host_allowed(host, frozenset({"localhost"})):
        assert text.lower().partition(b":")[0].removesuffix(b".") == b"localhost"


@given(st.binary(max_size=60), st.sampled_from([b"http://", b"https://", b"ftp://", b""]))
def test_same_origin_needs_the_same_name(text: bytes, scheme: bytes) -> None:
    if origin_allowed(scheme + text, Authority("localhost", 8080, is_ip=False), frozenset()):
        assert text.lower() in (b"localhost:8080", b"localhost.:8080")


@given(st.ip_addresses(), st.integers(0, 65535), st.sampled_from([b"http", b"https"]))
def test_a_page_served_from_an_address_may_call_that_address(address: Any, port: int, scheme: bytes) -> None:
    text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    host = parse_authority(text.encode())

    assert host is not None
    assert host_allowed(host, frozenset())
    assert origin_allowed(scheme + b"://" + text.encode(), host, frozenset())


def test_default_ports_do_not_make_another_origin() -> None:
    assert normal_origin(b"HTTP://UI.lan:80") == b"http://ui.lan"
    assert normal_origin(b"https://ui.lan:443") == b"https://ui.lan"
    assert normal_origin(b"http://ui.lan:443") == b"http://ui.lan:443"
    assert [normal_origin(text) for text in (b"null", b"*", b"ui.lan", b"http://ui.lan/", b"")] == [None] * 5


def test_machine_answers_to_its_full_short_and_mdns_name() -> None:
    assert machine_names("Box.Example.ORG.") == {"localhost", "box.example.org", "box", "box.local"}
    assert machine_names("") == {"localhost"}


# Words


def test_error_body_always_has_openai_s_four_keys() -> None:
    body = json.loads(error_body('say "é"', "invalid_request_error", code="x"))

    assert body == {"error": {"message": 'say "é"', "type": "invalid_request_error", "param": None, "code": "x"}}
