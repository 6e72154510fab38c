"""What AirLab answers while there is no manifest that it could serve."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.api.auth import Auth
from app.api.waiting import WaitingRoom
from app.api.wire import Message
from app.manifest.load import parse_manifest
from app.manifest.problems import ManifestProblems
from app.settings import Settings

USE, ADMIN = "use-key", "admin-key"
BROKEN = b"version: 1\nmodels: 3\n"


def trouble(data: bytes = BROKEN) -> ManifestProblems:
    with pytest.raises(ManifestProblems) as refused:
        parse_manifest(data, name="airlab.yaml")
    return refused.value


@pytest.fixture
def room() -> WaitingRoom:
    return WaitingRoom(Auth(Settings(api_key=USE, admin_key=ADMIN)), trouble())


class Answer:
    """What came back for one request."""

    def __init__(self, messages: list[Message]) -> None:
        start, self.body_message = messages
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.text: str = self.body_message["body"].decode()

    def json(self) -> Any:
        return json.loads(self.text)


async def ask(room: WaitingRoom, path: str, *, method: str = "GET", key: str | None = None) -> Answer:
    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": ("192.0.2.1", 5)}
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("no body is read: nothing would be done with it")

    async def send(message: Message) -> None:
        sent.append(message)

    await room(scope, receive, send)
    return Answer(sent)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/models"), ("GET", "/nowhere")]
)
async def test_every_request_is_told_to_come_again_in_the_shape_of_openai(
    room: WaitingRoom, method: str, path: str
) -> None:
    answer = await ask(room, path, method=method, key=USE)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "no_manifest")
    assert "/health says what is wrong" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) > 0
    assert int(answer.headers["content-length"]) == len(answer.text.encode())


async def test_requests_of_anthropics_clients_are_told_so_in_their_shape(room: WaitingRoom) -> None:
    answer = await ask(room, "/v1/messages", method="POST", key=USE)
    refused = await ask(room, "/v1/messages", method="POST", key="wrong")

    assert (answer.status, answer.json()["type"], answer.json()["error"]["type"]) == (503, "error", "overloaded_error")
    assert (refused.status, refused.json()["error"]["type"]) == (401, "authentication_error")


async def test_health_says_what_is_wrong_and_where(room: WaitingRoom) -> None:
    body = (await ask(room, "/health", key=USE)).json()
    assert (body["status"], body["model_key"], body["loaded"], body["generation"]) == ("degraded", None, False, 0)
    assert "airlab.yaml:2:9: models: 3 is not a mapping" in body["reload_error"]


async def test_health_tells_a_stranger_that_it_waits_and_nothing_of_the_file(room: WaitingRoom) -> None:
    answer = await ask(room, "/health")
    assert (answer.status, answer.json()["status"]) == (503, "degraded")
    assert "airlab.yaml:" not in answer.text
    assert "reload_error" not in answer.json()


async def test_health_tells_of_the_newest_trouble(room: WaitingRoom) -> None:
    room.trouble = trouble(b"")
    assert "top level must be a mapping" in (await ask(room, "/health", key=USE)).text


async def test_wrong_key_is_answered_as_ever(room: WaitingRoom) -> None:
    answer = await ask(room, "/health", key="wrong")
    assert (answer.status, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert "airlab.yaml" not in answer.text


async def test_head_has_no_body(room: WaitingRoom) -> None:
    answer = await ask(room, "/health", method="HEAD", key=USE)
    assert (answer.status, answer.text) == (503, "")
    assert int(answer.headers["content-length"]) > 0


async def test_what_is_no_http_is_not_answered(room: WaitingRoom) -> None:
    async def never(*_: object) -> Message:
        raise AssertionError

    await room({"type": "websocket", "path": "/", "headers": []}, never, never)  # type: ignore[arg-type]
