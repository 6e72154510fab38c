"""Timing a web server: whom it may ask, and what servers do to those who ask. No test needs the internet."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.tools.base import Confinement, ToolProblem
from app.tools.builtin.measure_http_latency import measure_http_latency
from app.tools.worker import http, lockdown, net, trust
from tests.support.ports import held_port
from tests.tools.places import refusal
from tests.tools.servers import FINE, certificate_in, serving


@pytest.fixture(autouse=True)
def sealed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """In a worker the network is closed for good there; here it is only counted."""
    calls: list[int] = []
    monkeypatch.setattr(lockdown, "close_network", lambda: calls.append(1))
    return calls


def inside(*ports: int) -> Confinement:
    """Where the test's own server may be asked."""
    return Confinement("net", allow_private=("127.0.0.0/8", "::1/128"), ports=ports or (80, 443))


def ask(answer: bytes | Callable[[socket.socket], None]) -> dict[str, object]:
    """What the tool says of a server on this machine that answers so."""

    def say(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer) if isinstance(answer, bytes) else answer(connection)

    with serving(say) as port:
        return measure_http_latency(f"http://127.0.0.1:{port}", inside=inside(port))


@pytest.mark.parametrize(
    "host",
    [
        *("http://127.1", "http://2130706433", "http://0x7f000001", "①②⑦.⓪.⓪.①", "http://[::ffff:127.0.0.1]/"),
        *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254", "localhost", "LOCALHOST", "http://0"),
    ],
)
def test_fault_065_address_that_is_not_public_is_not_asked(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", None)

    assert refusal(measure_http_latency, host, inside=Confinement("net")).code == "address_not_allowed"


def test_one_private_address_among_public_ones_spoils_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the internet may be made to point into a house."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("1.1.1.1", "192.168.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", None)

    assert refusal(measure_http_latency, "two-faced.example", inside=Confinement("net")).code == "address_not_allowed"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *(
            (text, "invalid_hostname")
            for text in ("", "ftp://a.example", "http://a.example/path", "http://u:p@a.example")
        ),
        *((text, "invalid_hostname") for text in ("a b", "a\r\nHost: b", "a\0b", "a.example?x", "http://", "x" * 254)),
        *((text, "port_not_allowed") for text in ("a.example:22", "http://a.example:8080", "a.example:99999")),
    ],
)
def test_what_is_no_host_or_no_open_port_is_refused_before_it_is_looked_up(
    text: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)

    assert refusal(measure_http_latency, text, inside=Confinement("net")).code == code


def test_host_is_read_as_people_write_it() -> None:
    for text, scheme, host, port, authority in (
        ("a.example", "https", "a.example", 443, "a.example"),
        ("HTTP://a.example/", "http", "a.example", 80, "a.example"),
        ("https://[::1]:80", "https", "::1", 80, "[::1]:80"),
        ("bücher.example", "https", "xn--bcher-kva.example", 443, "xn--bcher-kva.example"),
    ):
        target = http.read_target(text, Confinement("net"))
        assert (target.scheme, target.host, target.port, target.authority) == (scheme, host, port, authority)


def test_answer_is_timed_over_a_connection_that_can_open_no_other(sealed: list[int]) -> None:
    asked: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        asked.append(connection.recv(4096))
        assert sealed == [1]
        connection.sendall(FINE)

    with serving(answer) as port:
        result = measure_http_latency(f"http://localhost:{port}", inside=inside(port))

    assert result.keys() == {"latency_ms"}
    assert isinstance(result["latency_ms"], float)
    assert asked[0].startswith(b"HEAD / HTTP/1.1\r\nHost: localhost:%d\r\n" % port)


@pytest.mark.parametrize("where", ["http://127.0.0.1/", "http://127.0.0.1:22/", "/again", "x" * 5000])
def test_fault_068_redirect_is_told_and_not_followed(where: str) -> None:
    result = ask(b"HTTP/1.1 302 Found\r\nServer: x\r\nLocation: %s\r\n\r\n" % where.encode())

    assert f"a redirect (302) to {where[:200]!r}, which was not followed" in str(result["note"])


def test_fault_068_redirect_without_a_place_is_told_too() -> None:
    assert "a redirect (304), which" in str(ask(b"HTTP/1.1 304 Not Modified\r\n\r\n")["note"])


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n" + b"x" * 1_000_000, id="1 GiB"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1024**2 + b"\r\n\r\n", id="1 MiB header line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000 + b"\r\n", id="many headers"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(10**7)), id="gzip bomb"
        ),
        pytest.param(b"HTTP/1.1 500 Oops\r\n\r\n", id="error"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="cut"),
    ],
)
def test_fault_070_server_that_sends_too_much_is_timed_all_the_same(answer: bytes) -> None:
    assert ask(answer).keys() == {"latency_ms"}


def test_fault_070_answer_without_end_is_left() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(FINE)
        while True:
            connection.sendall(b"x" * 65536)

    assert ask(answer).keys() == {"latency_ms"}


def test_fault_070_drip_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_TIME_S", 0.2)
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        for byte in FINE:
            connection.sendall(bytes([byte]))
            if over.wait(0.1):
                return

    with pytest.raises(ToolProblem) as caught:
        ask(answer)
    over.set()
    assert caught.value.code == "timeout"


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n\r\n", b"\xff" * 70_000, b"HTTP/2.0 200 OK\r\n"]
)
def test_what_is_no_http_is_an_answer(answer: bytes) -> None:
    with pytest.raises(ToolProblem) as caught:
        ask(answer)
    assert caught.value.code == "not_http"


def test_server_that_is_not_there_is_an_answer_that_says_what_to_try() -> None:
    with held_port() as port:
        problem = refusal(measure_http_latency, f"127.0.0.1:{port}", inside=inside(port))

    assert (problem.code, "Try http://127.0.0.1" in problem.message) == ("no_answer", True)


def test_plain_server_asked_for_tls_is_an_answer() -> None:
    with serving(lambda connection: connection.sendall(b"HTTP/1.1 400 no\r\n\r\n")) as port:
        problem = refusal(measure_http_latency, f"127.0.0.1:{port}", inside=inside(port))

    assert problem.code == "no_answer"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate_in(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def greet(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(FINE)


def test_server_that_is_trusted_is_timed_under_its_own_name(
    tls: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str | None] = []
    tls.sni_callback = lambda _, name, __: names.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    monkeypatch.setattr(trust, "CONTEXT", trusting)

    with serving(greet, tls) as port:
        assert measure_http_latency(f"localhost:{port}", inside=inside(port)).keys() == {"latency_ms"}
    with serving(greet, tls) as port:
        problem = refusal(measure_http_latency, f"127.0.0.1:{port}", inside=inside(port))

    assert names[0] == "localhost"
    assert problem.code == "certificate_not_trusted"


def test_server_that_nobody_vouches_for_is_not_asked(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    if not trust.CONTEXT.cert_store_stats()["x509_ca"]:
        pytest.skip("this system has no certificates")
    asked: list[bytes] = []
    with serving(lambda connection: asked.append(connection.recv(4096)), tls) as port:
        problem = refusal(measure_http_latency, f"localhost:{port}", inside=inside(port))

    assert (problem.code, asked) == ("certificate_not_trusted", [])
    assert "self-signed" in problem.message
    monkeypatch.setattr(trust, "CONTEXT", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    with serving(greet, tls) as port:
        problem = refusal(measure_http_latency, f"localhost:{port}", inside=inside(port))
    assert (problem.code, "ca-certificates" in problem.message) == ("no_certificates", True)


def test_lookup_and_request_mean_the_same_host() -> None:
    """What DNS is asked for, what TLS checks and what HTTP names are one text, so that none can be played off."""
    for text in ("ⓔxample.example", "EXAMPLE.example", "xn--bcher-kva.example"):
        assert http.read_target(text, Confinement("net")).host == net.plain_name(text)
        assert net.plain_name(text).isascii()
