"""A lab that chats: its settings, its model's lines, and short ways to say something and to look at what is stored."""

from __future__ import annotations

import json
import runpy
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx

from tests.support.service import ROOT, Lab, Service

Event = tuple[str, dict[str, Any]]
VISIBLE = {"user", "assistant"}
_CLIENT = runpy.run_path(str(ROOT / "docs" / "chat_client.py"), run_name="chat_client")


def client(service: Service, session_id: str, **settings: object) -> Any:
    """The documented client, pointed at this service."""
    _CLIENT["post"].__globals__["URL"] = service.url.rstrip("/")
    return _CLIENT["Conversation"](session_id, **settings)


def configure(lab: Lab, **sections: dict[str, Any]) -> None:
    """Put sections into the lab's manifest, before it is served."""
    manifest = json.loads(lab.manifest.read_text())
    lab.write_manifest(json.dumps({**manifest, **sections}))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def calls(*named: tuple[str, Any], text: str = "") -> dict[str, Any]:
    """A reply of the scripted engine: native calls, by name and arguments."""
    return {"content": text, "tool_calls": [{"name": name, "arguments": arguments} for name, arguments in named]}


def say(service: Service, *messages: dict[str, Any] | str, **more: Any) -> httpx.Response:
    """POST /chat."""
    said = [user(message) if isinstance(message, str) else message for message in messages]
    return service.http.post("/chat", json={"messages": said, "max_tokens": 32, "session_id": "s", **more})


def said(service: Service, *messages: dict[str, Any] | str, **more: Any) -> dict[str, Any]:
    """POST /chat that must go well: the answer."""
    answer = say(service, *messages, **more)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@contextmanager
def streaming(service: Service, *messages: str, **more: Any) -> Iterator[Iterator[Event]]:
    """POST /chat as a stream: its events; leaving the block leaves the stream."""
    body = {"messages": [user(text) for text in messages], "max_tokens": 32, "session_id": "s", "stream": True, **more}
    with service.http.stream("POST", "/chat", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events_of(answer)


def streamed(service: Service, *messages: str, **more: Any) -> list[Event]:
    """The events of a whole stream."""
    with streaming(service, *messages, **more) as events:
        return list(events)


def events_of(answer: httpx.Response) -> Iterator[Event]:
    """Name and data of each event; comments are passed over."""
    return _events(answer.iter_lines())


def events_of_lines(lines: list[str]) -> list[Event]:
    """The same of a stream that was read already."""
    return list(_events(iter(lines)))


def _events(lines: Iterator[str]) -> Iterator[Event]:
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def session(service: Service, session_id: str = "s") -> dict[str, Any]:
    """GET /sessions/{id}; its name may hold anything."""
    path = "".join(f"%{byte:02X}" for byte in session_id.encode())
    found: dict[str, Any] = service.http.get(f"/sessions/{path}").raise_for_status().json()
    return found


def visible(service: Service, session_id: str = "s") -> list[dict[str, str]]:
    """The active branch as a client holds it; whatever else is on it must be whole tool rounds."""
    shown, waiting = [], list[str]()
    for message in session(service, session_id)["messages"]:
        if message["tool_calls"]:
            assert message["role"] == "assistant"
            assert not waiting
            waiting = [call["id"] for call in message["tool_calls"]]
        elif message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
        else:
            assert message["role"] in VISIBLE
            assert not waiting
            shown.append({"role": message["role"], "content": message["content"]})
    assert not waiting
    return shown


def prompts(service: Service, key: str = "small", path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    """The bodies that the scripted engine was sent on a route, oldest first."""
    seen = service.engine(key).ask("/fake/requests")
    return [request["body"] for request in seen if request["method"] == "POST" and request["path"] == path]


def counted_tokens(lab: Lab, session_id: str) -> int:
    """The stored lengths of a session's messages, in tokens; its newest answer has none yet."""
    with _reading(lab) as connection:
        query = "SELECT sum(tokens) FROM messages JOIN sessions s ON s.id = session WHERE s.name = ?"
        (tokens,) = connection.execute(query, (session_id,)).fetchone()
    return int(tokens)


def _reading(lab: Lab) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"file:{lab.folder}/.airlab/airlab.db?mode=ro", uri=True))


def require_sound_store(lab: Lab) -> None:
    """The database is whole, nothing stands twice in one place, and a session's head is the answer of an ended turn."""
    with _reading(lab) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        twins = connection.execute(
            "SELECT session, anchor, role, trim(content), count(*) FROM messages WHERE digest IS NOT NULL "
            "GROUP BY session, anchor, digest HAVING count(*) > 1"
        ).fetchall()
        assert twins == []
        heads = connection.execute(
            "SELECT m.role, m.tool_calls, t.status FROM sessions s JOIN messages m ON m.id = s.head "
            "JOIN turns t ON t.leaf = m.id"
        ).fetchall()
        assert {(role, tool_calls) for role, tool_calls, _ in heads} <= {("assistant", None)}
        assert "open" not in {status for _, _, status in heads}
