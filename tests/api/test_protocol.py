"""The edge over real sockets: uvicorn with uvloop, httptools, our protocol and the guard."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import pytest
import uvicorn

from app.api.guard import EdgePolicy, Guard
from app.api.protocol import GuardedProtocol, uvicorn_options
from app.api.wire import Receive, Scope, Send

WAIT_S = 10.0
POLICY = EdgePolicy(host_names=frozenset({"box.lan"}), cors_origins=frozenset({"http://ui.lan:3000"}))


class EchoApp:
    """Tells what reached it; ``/hang`` and ``/stream`` end only when they are cancelled."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.started = threading.Event()
        self.cleaned_up = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = (await receive())["body"]
        self.seen.append((scope["path"], len(body)))
        start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
        if scope["path"] in ("/hang", "/stream"):
            try:
                if scope["path"] == "/stream":
                    await send(start)
                    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
                self.started.set()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # a cleanup that itself has to wait is let finish
                self.cleaned_up.set()
        headers = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
        told = {"path": scope["path"], "client": scope["client"], "headers": headers, "bytes": len(body)}
        await send(start)
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})


class Edge:
    """A running server, and the application behind it."""

    def __init__(self, port: int, app: EchoApp, family: socket.AddressFamily) -> None:
        self.port = port
        self.app = app
        self._family = family

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.socket(self._family, socket.SOCK_STREAM) as client:
            client.settimeout(WAIT_S)
            client.connect(("::1" if self._family == socket.AF_INET6 else "127.0.0.1", self.port))
            yield client

    def ask(self, raw: bytes) -> Answer:
        with self.connection() as client:
            client.sendall(raw)
            return read_answer(client)

    def ask_to_the_end(self, raw: bytes) -> bytes:
        """Everything the server says until it closes the connection; it is not asked to."""
        with self.connection() as client:
            client.sendall(raw)
            return read_to_end(client)


class Answer:
    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


def read_answer(client: socket.socket, method: str = "GET") -> Answer:
    response = HTTPResponse(client, method=method)
    response.begin()
    try:
        return Answer(response)
    finally:
        response.close()


def read_to_end(client: socket.socket) -> bytes:
    said = b""
    while piece := client.recv(65536):
        said += piece
    return said


@contextmanager
def serving(
    policy: EdgePolicy = POLICY,
    *,
    host: str = "127.0.0.1",
    caps: dict[str, int] | None = None,
    **deadlines: float,
) -> Iterator[Edge]:
    """Serve the echo application in a thread, on a free port; ``deadlines`` replace the protocol's."""
    app = EchoApp()
    options = uvicorn_options(**(caps or {}))
    options["http"] = type("TestedProtocol", (options["http"],), deadlines)
    config = uvicorn.Config(Guard(app, policy), loop="uvloop", lifespan="off", log_config=None, **options)
    server = uvicorn.Server(config)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=2048) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Edge(listener.getsockname()[1], app, family)
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    # Who reads an answer to its end does not wait for this; who is slow to send is not cut off by it.
    with serving(linger_s=WAIT_S) as served:
        yield served


def get(path: str = "/", *, host: str = "localhost", headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode()


def post(body: bytes, *, path: str = "/", headers: str = "Content-Type: application/json\r\n") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


SECOND = get("/second")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.com", "localhost:8080@evil", "127.1", "2130706433", "localhost:99999"]
)
def test_fault_031_foreign_host_is_refused(edge: Edge, host: str) -> None:
    """DNS rebinding makes a browser send a foreign name here."""
    answer = edge.ask(get(host=host))

    assert (answer.status, answer.error["code"], answer.error["type"]) == (403, "invalid_host", "permission_error")


@pytest.mark.parametrize(
    "host",
    ["localhost:8080", "[::1]:8080", "[0:0:0:0:0:0:0:1]", "LOCALHOST", "localhost.", "192.168.1.7:80", "Box.LAN"],
)
def test_fault_032_own_names_and_addresses_pass_with_any_port(edge: Edge, host: str) -> None:
    assert edge.ask(get(host=host)).status == 200


def test_fault_032_a_real_ipv6_connection_is_served() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this host has no IPv6 loopback")
    with serving(host="::1") as edge:
        assert edge.ask(get(host=f"[::1]:{edge.port}")).status == 200


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: localhost\r\n"])
def test_fault_033_no_host_or_two_is_a_bad_request_and_closes(edge: Edge, hosts: str) -> None:
    said = edge.ask_to_the_end(f"GET /first HTTP/1.1\r\n{hosts}\r\n".encode() + SECOND)

    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("url", ["http://evil/", "http://localhost@evil/", "http://localhost:81/", "http://localhost"])
def test_fault_035_url_that_names_another_host_is_refused(edge: Edge, url: str) -> None:
    """ASGI drops the URL's host, so that nobody behind the protocol could compare it."""
    assert edge.ask_to_the_end(get(url) + SECOND).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://localhost/", "localhost:80"), ("http://LOCALHOST:8080/", "localhost:8080"), ("http://[::1]/", "[::1]")],
)
def test_fault_035_url_that_names_the_same_host_passes(edge: Edge, url: str, host: str) -> None:
    assert edge.ask(get(url, host=host)).status == 200


def test_fault_038_json_sent_as_text_is_refused_with_the_header_to_add(edge: Edge) -> None:
    answer = edge.ask(post(b"{}", headers="Content-Type: text/plain\r\n"))

    assert answer.status == 415
    assert "Content-Type: application/json" in answer.error["message"]


GET = b"GET /first HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /first HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD_FRAMING = {
    "length, chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": GET + b"X : b\r\n\r\n",
    "NUL": GET + b"X: a\0b\r\n\r\n",
    "folded header": GET + b"X: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET /first HTTP/1.1\nHost: localhost\n\n",
    "bad chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /first\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("request_", BAD_FRAMING.values(), ids=BAD_FRAMING.keys())
def test_fault_039_unclear_framing_closes_and_serves_nothing(edge: Edge, request_: bytes) -> None:
    """Where one request ends must not be a matter of opinion: else a proxy's next client is answered with ours."""
    edge.app.seen.clear()
    said = edge.ask_to_the_end(request_ + SECOND)

    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    assert edge.app.seen == []


def test_garbage_behind_a_running_stream_does_not_write_into_it() -> None:
    """A 400 in the middle of another answer would be read as part of it."""
    with serving() as edge, edge.connection() as client:
        client.sendall(get("/stream"))
        assert edge.app.started.wait(WAIT_S)
        client.sendall(b"\x00garbage\r\n\r\n")
        said = read_to_end(client)
        assert said.count(b"HTTP/1.1 ") == 1
        assert not said.endswith(b"0\r\n\r\n"), "a cut stream must not look complete"
        assert edge.app.cleaned_up.wait(WAIT_S)


@pytest.mark.parametrize(
    "headers",
    [
        f"X-Big: {'a' * 2**20}\r\n",
        "".join(f"X-{number}: a\r\n" for number in range(2000)),
        "".join(f"X-{number}: a\r\n" for number in range(100)),
        "".join(f"X-{number}: {'a' * 4000}\r\n" for number in range(9)),
        f"{'a' * 2**20}: b\r\n",
    ],
    ids=["1 MiB", "2000", "101", "36 KiB", "1 MiB name"],
)
def test_fault_040_large_heads_are_refused_before_the_application_sees_them(edge: Edge, headers: str) -> None:
    edge.app.seen.clear()
    said = edge.ask_to_the_end(get(headers=headers) + SECOND)

    assert said.startswith(b"HTTP/1.1 431 ")
    assert edge.app.seen == []


def test_fault_040_a_long_url_counts_as_head(edge: Edge) -> None:
    assert edge.ask_to_the_end(get("/" + "a" * 40_000)).startswith(b"HTTP/1.1 431 ")


def test_fault_040_an_ordinary_head_with_a_large_body_in_the_same_packet_passes(edge: Edge) -> None:
    answer = edge.ask(post(b'"' + b"a" * 100_000 + b'"'))

    assert (answer.status, json.loads(answer.body)["bytes"]) == (200, 100_002)


def test_fault_040_a_head_of_exactly_the_limits_passes(edge: Edge) -> None:
    names = "".join(f"X-{number}: a\r\n" for number in range(99))

    assert edge.ask(get(headers=names)).status == 200


def test_fault_040_endless_trailers_are_refused(edge: Edge) -> None:
    with edge.connection() as client:
        client.sendall(CHUNKED + b"2\r\n{}\r\n0\r\n")
        client.sendall(b"X: " + b"a" * 2**20)
        assert read_to_end(client).startswith(b"HTTP/1.1 431 ")


def test_trailers_do_not_become_headers(edge: Edge) -> None:
    """They come after the head was judged: an Origin or a key in them would slip past."""
    answer = edge.ask(CHUNKED + b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\nHost: evil\r\n\r\n")

    assert [name for name, _ in json.loads(answer.body)["headers"]] == ["host", "content-type", "transfer-encoding"]


@pytest.mark.parametrize(
    "start", [b"", b"GET / HTTP/1.1\r\nHost: loc", b"\r\n"], ids=["silent", "half a head", "blank"]
)
def test_fault_041_a_head_that_does_not_come_closes_the_connection(start: bytes) -> None:
    with serving(head_deadline_s=1.0) as edge:
        assert edge.ask_to_the_end(start) == b""


def test_fault_041_a_head_that_trickles_has_one_deadline() -> None:
    """Each byte must not buy more time."""
    with serving(head_deadline_s=1.0) as edge, edge.connection() as client:
        client.sendall(get() + b"GET / HTTP/1.1\r\nX: ")
        assert read_answer(client).status == 200
        client.settimeout(0.1)
        for _ in range(200):
            try:
                client.sendall(b"a")
                if client.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("the connection was kept open")


def test_fault_041_an_idle_connection_is_closed() -> None:
    with serving(idle_deadline_s=0.3) as edge:
        assert edge.ask_to_the_end(get()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "policy", [EdgePolicy(body_grace_s=0.2), EdgePolicy(body_deadline_s=0.2)], ids=["too slow", "too long"]
)
def test_fault_041_a_slow_body_is_answered_408_and_closed(policy: EdgePolicy) -> None:
    with serving(policy) as edge:
        said = edge.ask_to_the_end(post(b" " * 100)[:-50])

        assert said.startswith(b"HTTP/1.1 408 ")
        assert edge.app.seen == []


TWENTY_MIB = 20 * 2**20


def test_fault_043_a_body_over_its_limit_is_refused_by_its_length(edge: Edge) -> None:
    edge.app.seen.clear()
    answer = edge.ask(post(b" " * TWENTY_MIB))

    assert (answer.status, answer.error["type"], edge.app.seen) == (413, "invalid_request_error", [])


def test_fault_043_a_chunked_body_over_its_limit_is_refused(edge: Edge) -> None:
    edge.app.seen.clear()
    answer = edge.ask(
        CHUNKED.replace(b"/first", b"/v1/x") + b"%x\r\n" % TWENTY_MIB + b" " * TWENTY_MIB + b"\r\n0\r\n\r\n"
    )

    assert (answer.status, edge.app.seen) == (413, [])


def test_fault_043_a_body_shorter_than_its_length_is_answered_408() -> None:
    with serving(EdgePolicy(body_grace_s=0.2)) as edge:
        raw = post(b" " * 100, path="/v1/x").replace(b"Content-Length: 100", b"Content-Length: 1000")

        assert edge.ask_to_the_end(raw).startswith(b"HTTP/1.1 408 ")


def test_fault_043_a_client_that_leaves_in_its_body_reaches_nobody() -> None:
    with serving() as edge:
        with edge.connection() as client:
            client.sendall(post(b" " * 100)[:-50])
        assert edge.ask(get("/after")).status == 200
        assert edge.app.seen == [("/after", 0)]


def test_fault_046_too_large_a_body_is_refused_before_it_is_sent(edge: Edge) -> None:
    headers = f"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {TWENTY_MIB}\r\n"
    said = edge.ask_to_the_end(f"POST / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())

    assert said.startswith(b"HTTP/1.1 413 ")


def test_fault_046_a_good_body_is_asked_for(edge: Edge) -> None:
    raw = post(b"{}", headers="Content-Type: application/json\r\nExpect: 100-continue\r\n")
    with edge.connection() as client:
        client.sendall(raw[:-2])
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(raw[-2:])
        assert read_answer(client, "POST").status == 200


@pytest.mark.parametrize("path", ["/hang", "/stream"], ids=["plain", "streaming"])
def test_handler_is_cancelled_and_cleans_up_when_its_client_leaves(path: str) -> None:
    """Else a model goes on generating for nobody."""
    with serving() as edge:
        with edge.connection() as client:
            client.sendall(post(b"{}", path=path))
            assert edge.app.started.wait(WAIT_S)
        assert edge.app.cleaned_up.wait(WAIT_S)


def test_stream_with_a_pipelined_request_behind_it_is_cancelled_too() -> None:
    """uvicorn tells only the newest request of a connection that its client left."""
    with serving() as edge:
        with edge.connection() as client:
            client.sendall(get("/stream") + SECOND)
            assert edge.app.started.wait(WAIT_S)
        assert edge.app.cleaned_up.wait(WAIT_S)
        assert edge.ask(get("/after")).status == 200
        assert [path for path, _ in edge.app.seen] == ["/stream", "/after"]


def test_pipelined_requests_are_answered_in_order(edge: Edge) -> None:
    with edge.connection() as client:
        client.sendall(get("/one") + get("/two", headers="Connection: close\r\n"))
        said = read_to_end(client)

    assert [b'"/one"' in half for half in said.split(b"HTTP/1.1 200")[1:]] == [True, False]


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_a_wish_for_another_protocol_is_declined_and_the_body_kept(edge: Edge, protocol: str) -> None:
    """Java's HttpClient asks for HTTP/2 with every first request, its body behind it."""
    edge.app.seen.clear()
    headers = f"Content-Type: application/json\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n"
    raw = post(b'{"a": 1}', headers=headers)
    with edge.connection() as client:
        client.sendall(raw[:-3])
        client.sendall(raw[-3:])
        answer = read_answer(client, "POST")

    assert (answer.status, edge.app.seen) == (200, [("/", 8)])


def test_forwarded_headers_are_not_believed(edge: Edge) -> None:
    headers = (
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n"
    )

    assert json.loads(edge.ask(get(headers=headers)).body)["client"][0] == "127.0.0.1"
    assert edge.ask(get(host="evil", headers="X-Forwarded-Host: localhost\r\n")).status == 403


@pytest.mark.parametrize("caps", [{"connection_cap": 2}, {"peer_cap": 2}], ids=["in all", "per address"])
def test_connection_over_the_cap_is_closed_at_once(caps: dict[str, int]) -> None:
    with serving(caps=caps) as edge, edge.connection() as first, edge.connection() as second:
        for client in (first, second):
            client.sendall(get())
            assert read_answer(client).status == 200
        with edge.connection() as third:
            assert read_to_end(third) == b""
        first.close()
        second.sendall(get())
        assert read_answer(second).status == 200


def test_default_limits_are_the_documented_ones() -> None:
    seconds = (GuardedProtocol.head_deadline_s, GuardedProtocol.idle_deadline_s)
    caps = (GuardedProtocol.connection_cap, GuardedProtocol.peer_cap)

    assert (seconds, caps) == ((10.0, 15.0), (200, 50))
