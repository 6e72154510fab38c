"""How long an AirLab that is away is waited for, and what is never asked twice."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.client.client import Client
from app.client.events import Retrying
from app.client.wire import Patience
from app.errors import AnsweredError, ServerAwayError
from tests.support.service import BOUND_S

AWAY = ServerAwayError("away")
HEALTH = b'{"status": "ok", "message": "small is ready", "model_key": "small"}'


def test_waits_grow_and_end() -> None:
    patience = Patience(30)
    waits = [patience.wait_s(AWAY) for _ in range(7)]

    assert waits == [0.25, 0.5, 1, 2, 4, 8, 8]
    with pytest.raises(ServerAwayError, match="away"):
        patience.wait_s(AWAY)


def test_wait_is_as_long_as_airlab_asks_for() -> None:
    assert Patience(30).wait_s(AWAY, asked_s=7) == 7


def test_without_patience_nothing_is_waited_for() -> None:
    with pytest.raises(ServerAwayError):
        Patience(0).wait_s(AWAY)


@contextmanager
def answering(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, one for each connection, and then listens no more; None: it hangs up."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(BOUND_S)

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as asked:
                    head = b"".join(iter(asked.readline, b"\r\n"))
                    length = re.search(rb"(?i)content-length: (\d+)", head)
                    seen.append(head + asked.read(int(length[1]) if length else 0))
                    connection.sendall(answer or b"")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        finally:
            thread.join(BOUND_S)
            assert not thread.is_alive()


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def patient(url: str, waits: list[float], told: Callable[[Retrying], None] = lambda _: None) -> Client:
    return Client(url, "k", patience_s=5, told=told, pause=waits.append)


def test_question_is_asked_again_when_airlab_hangs_up() -> None:
    waits: list[float] = []
    told: list[Retrying] = []
    with answering(None, http("200 OK", HEALTH)) as (url, _), patient(url, waits, told.append) as client:
        assert client.health().model_key == "small"

    assert waits == [0.25]
    assert "broke off" in told[0].why


def test_order_that_may_have_been_carried_out_is_not_given_twice() -> None:
    waits: list[float] = []
    with (
        answering(None) as (url, seen),
        patient(url, waits) as client,
        pytest.raises(ServerAwayError, match="broke off"),
    ):
        client.send_command("layers", 0)

    assert (len(seen), waits) == (1, [])


def test_airlab_that_asks_for_a_moment_is_given_it() -> None:
    busy = http("503 Service Unavailable", b'{"error": {"message": "stopping"}}', "retry-after: 2")
    done = http("200 OK", b'{"message": "set", "current_value": "0"}')
    waits: list[float] = []
    with answering(busy, done) as (url, _), patient(url, waits) as client:
        assert client.send_command("layers", 0).current_value == "0"

    assert waits == [2]


def test_error_that_time_does_not_heal_is_told_at_once() -> None:
    waits: list[float] = []
    failed = http("503 Service Unavailable", b'{"error": {"message": "no such flag", "code": "model_unavailable"}}')
    with answering(failed) as (url, _), patient(url, waits) as client, pytest.raises(AnsweredError) as caught:
        client.switch_model("small")

    assert (caught.value.message, caught.value.status, caught.value.code) == ("no such flag", 503, "model_unavailable")
    assert waits == []


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"status": "ok"}'], ids=["html", "list", "other"])
def test_something_else_that_answers_is_said_to_be_no_airlab(body: bytes) -> None:
    served = answering(http("200 OK", body))
    with served as (url, _), Client(url, patience_s=0) as client, pytest.raises(ServerAwayError, match="no AirLab"):
        client.health()


@pytest.mark.parametrize("url", ["localhost", "http://127.0.0.1:1", "no url", "http://[", "ftp://127.0.0.1"])
def test_address_where_nobody_is_or_can_be_is_named(url: str) -> None:
    with pytest.raises(ServerAwayError, match="no AirLab answers at"), Client(url, patience_s=0) as client:
        client.health()


def test_message_is_sent_again_under_the_same_key_until_its_turn_is_done() -> None:
    begun = b'event: turn\ndata: {"session_id": "s", "turn": 1, "model": "m"}\n\nevent: token\ndata: {"text": "Se'
    done = b'event: done\ndata: {"session_id": "s", "model": "m", "device": "CPU", "finish_reason": "stop"}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    waits: list[float] = []
    with answering(head + begun, head + done) as (url, seen), patient(url, waits) as client:
        kinds = [type(event).__name__ for event in client.send_message("Hello", session_id="s")]

    assert kinds == ["TurnOpened", "Retrying", "TurnDone"]
    assert seen[0] == seen[1]
    assert b"idempotency-key: " in seen[0].lower()
    assert b"Hello" in seen[0]


def test_keys_go_where_they_belong() -> None:
    asked = http("200 OK", b'{"message": "set", "current_value": "0"}')
    with answering(asked, http("200 OK", HEALTH)) as (url, seen), Client(url, "use", admin_key="admin") as client:
        client.send_command("layers")
        client.health()

    assert b"Bearer admin" in seen[0]
    assert b"Bearer use" in seen[1]
