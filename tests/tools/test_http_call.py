"""``http`` tools: what is asked of a server, and what servers do to those who ask. No test needs the internet."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.tools.base import Confinement, ToolProblem
from app.tools.worker import http_call, lockdown
from app.tools.worker.http_call import call_http
from tests.support.declared import declared, takes
from tests.tools.servers import serving


@pytest.fixture(autouse=True)
def sealed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """In a worker the network is closed for good there; here it is only counted."""
    calls: list[int] = []
    monkeypatch.setattr(lockdown, "close_network", lambda: calls.append(1))
    return calls


Answer = bytes | Callable[[socket.socket], None]


def reply(body: bytes | str, *headers: str, status: str = "200 OK") -> bytes:
    raw = body if isinstance(body, bytes) else body.encode()
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(raw)}", "", ""]
    return "\r\n".join(lines).encode() + raw


class Asked:
    """One call of a tool at a server that answers so: what the server heard, and what came of it."""

    def __init__(self, answer: Answer, arguments: dict[str, Any] | None = None, **settings: Any) -> None:
        self.heard = b""
        self.result: dict[str, Any] = {}
        self.problem: ToolProblem | None = None
        secrets = settings.pop("secrets", {})
        path = settings.pop("path", "/")

        def say(connection: socket.socket) -> None:
            while b"\r\n\r\n" not in self.heard:
                self.heard += connection.recv(4096)
            connection.sendall(answer) if isinstance(answer, bytes) else answer(connection)

        with serving(say) as port:
            spec = declared("http", url=f"http://127.0.0.1:{port}{path}", **settings)
            inside = Confinement("net", allow_private=("127.0.0.0/8",), ports=(port,))
            try:
                given = {"arguments": arguments or {}, "settings": json.loads(spec.settings), "secrets": secrets}
                self.result = call_http.run(given, inside)
            except ToolProblem as problem:
                self.problem = problem

    @property
    def code(self) -> str | None:
        return None if self.problem is None else self.problem.code


def test_request_is_what_the_manifest_says_with_the_arguments_filled_in(sealed: list[int]) -> None:
    asked = Asked(
        reply('{"a": [{"b": 7}]}'),
        {"place": "Köln/Süd ?&#", "days": 3},
        method="POST",
        path="/w/{place}?format=j1",
        query={"days": "{days}", "more": "{more}"},
        body={"place": "{place}", "days": "{days}", "more": "{more}", "fix": [1]},
        headers={"X-Plain": "yes", "Authorization": {"env": "TOKEN", "prefix": "Bearer "}},
        parameters=takes("place", days={"type": "integer"}, more={"type": "string"}),
        select="a.0.b",
        secrets={"TOKEN": "s3cret"},
    )

    head, _, body = asked.heard.decode().partition("\r\n\r\n")
    assert asked.result == {"status": 200, "content": 7}
    assert head.splitlines()[0] == "POST /w/K%C3%B6ln%2FS%C3%BCd%20%3F%26%23?format=j1&days=3 HTTP/1.1"
    assert {"X-Plain: yes", "Authorization: Bearer s3cret", "Accept-Encoding: identity"} <= set(head.splitlines())
    assert json.loads(body) == {"place": "Köln/Süd ?&#", "days": 3, "fix": [1]}
    assert sealed == [1]


def test_default_of_a_parameter_is_sent() -> None:
    asked = Asked(reply("x"), path="/{day}", parameters=takes(day={"type": "string", "default": "today"}))

    assert asked.heard.startswith(b"GET /today HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (reply("plain"), "plain"),
        (reply("ä".encode("latin-1"), "Content-Type: text/plain; charset=ISO-8859-1"), "ä"),
        (reply(b"\xff", "Content-Type: text/plain; charset=no-such-thing"), "\ufffd"),
        (reply("[1, 2]"), [1, 2]),
        (reply("", status="204 No Content"), ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "abcde"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + reply("after"), "after"),
    ],
)
def test_answers_are_read(answer: bytes, content: object) -> None:
    assert Asked(answer).result["content"] == content


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not_http"),
        (b"", "not_http"),
        (b"HTTP/1.1 200 OK\r\n", "not_http"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", None),
        (reply("no", status="404 Not Found"), "http_error"),
        (reply(gzip.compress(b"0" * 10_000_000), "Content-Encoding: gzip"), "compressed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1024**2 + b"\r\n\r\n", "not_http"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 3000 + b"\r\n", "not_http"),
    ],
)
def test_fault_070_answers_that_are_none_are_said_in_words(answer: bytes, code: str | None) -> None:
    assert Asked(answer).code == code


@pytest.mark.parametrize("location", ["http://127.0.0.1/", "/again", "file:///etc/passwd"])
def test_fault_068_redirect_is_told_and_not_followed(location: str) -> None:
    asked = Asked(reply("", f"Location: {location}", status="302 Found"))

    assert asked.code == "redirected"
    assert location in str(asked.problem)


def test_fault_070_endless_body_is_read_to_the_limit() -> None:
    def pour(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    asked = Asked(pour, max_body=2048)

    assert asked.result == {"status": 200, "content": "x" * 2048, "truncated": True}


def test_fault_070_promised_gibibyte_is_not_waited_for() -> None:
    asked = Asked(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\nabc")

    assert asked.result == {"status": 200, "content": "abc", "truncated": True}


def test_fault_070_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_call, "_TIME_S", 0.3)

    def drip(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"H")
            time.sleep(0.02)

    assert Asked(drip).code == "timeout"


def test_answer_for_the_model_is_cut_and_a_part_of_a_cut_answer_is_none() -> None:
    long = json.dumps({"a": "b" * 5000})

    assert Asked(reply(long), max_answer=300).result["truncated"] is True
    assert Asked(reply(long), max_body=1024, select="a").code == "not_in_answer"


def test_secret_that_http_cannot_carry_is_not_told() -> None:
    settings = json.loads(declared("http", url="http://127.0.0.1:1/", headers={"X-Key": {"env": "KEY"}}).settings)
    given = {"arguments": {}, "settings": settings, "secrets": {"KEY": "s3cret\r\nX-More: 1"}}
    with pytest.raises(ToolProblem) as caught:
        call_http.run(given, Confinement("net", allow_private=("127.0.0.0/8",), ports=(1,)))
    assert caught.value.code == "invalid_header"
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("host", ["127.1", "2130706433", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "169.254.169.254"])
def test_fault_065_address_that_is_not_public_is_not_asked(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", None)
    settings = json.loads(declared("http", url=f"http://{host}/").settings)

    with pytest.raises(ToolProblem) as caught:
        call_http.run({"arguments": {}, "settings": settings, "secrets": {}}, Confinement("net"))
    assert caught.value.code == "address_not_allowed"


def test_port_that_policy_does_not_open_is_not_asked() -> None:
    settings = json.loads(declared("http", url="http://127.0.0.1:22/").settings)

    with pytest.raises(ToolProblem) as caught:
        call_http.run({"arguments": {}, "settings": settings, "secrets": {}}, Confinement("net"))
    assert caught.value.code == "port_not_allowed"
