"""Runs the ``http`` tools that the manifest declares: one request, one answer, nothing followed.

Runs in a worker of kind ``net``: as ``http.py`` does, it connects to an address that was judged, and can connect to
nothing else by the time the other side speaks.
"""

from __future__ import annotations

import email.parser  # noqa: F401 # http.client reads headers with it; no imports behind the wall
import io
import json
import re
import socket
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any

from app.tools.base import Confinement, ToolProblem, runner
from app.tools.worker import http, net, templates

_TIME_S = 10.0
_HEAD_BYTES = 32 * 1024
_SAID_CHARACTERS = 300
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked", re.IGNORECASE)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_CHARSETS = ("iso-8859-1", "latin-1")
"""Read beside UTF-8; Python has them without an import."""


@runner
def call_http(
    arguments: Mapping[str, Any], settings: Mapping[str, Any], secrets: Mapping[str, str], *, inside: Confinement
) -> dict[str, Any]:
    """Ask a web server as the manifest says, with a model's arguments filled in."""
    values = {**settings["defaults"], **arguments}
    target = http.Target(settings["scheme"], net.plain_name(settings["host"]), settings["port"])
    if target.port not in inside.ports:
        allowed = ", ".join(map(str, inside.ports)) or "none"
        raise ToolProblem("port_not_allowed", f"Port {target.port} is not open to tools. Open are: {allowed}.")
    request = _request(target, settings, values, secrets)
    with http.connected(target, inside, min(_TIME_S, inside.limits.call_s)) as (connection, _, end_s):
        connection.sendall(request)
        raw = _answer_of(connection, settings["max_body"], end_s)
    return _read(raw, target, settings)


def _request(target: http.Target, settings: Mapping[str, Any], values: Mapping[str, Any], secrets: Any) -> bytes:
    path = templates.fill_path(settings["path"], values)
    query = templates.fill_query(settings["search"], settings["query"], values)
    headers = {"Accept": "application/json, text/*;q=0.9, */*;q=0.1", "User-Agent": "AirLab"}
    body = b""
    if settings["body"] is not None:
        body = json.dumps(templates.fill_json(settings["body"], values)).encode()
        headers["Content-Type"] = "application/json"
    for name, value in settings["headers"].items():
        text = value if isinstance(value, str) else value["prefix"] + secrets[value["env"]]
        if not _HEADER_VALUE.fullmatch(text):
            # Not what it is: it may be a key.
            raise ToolProblem("invalid_header", f"The header {name} holds what HTTP cannot carry. Tell the user.")
        headers[name] = text
    lines = [f"{settings['method']} {path}{'?' + query if query else ''} HTTP/1.1", f"Host: {target.authority}"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    if settings["method"] not in ("GET", "HEAD"):
        lines.append(f"Content-Length: {len(body)}")
    # Nothing compressed: a small answer could become a large one.
    lines += ["Accept-Encoding: identity", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


def _answer_of(connection: socket.socket | ssl.SSLSocket, most_bytes: int, end_s: float) -> bytes:
    """What the server sends, up to the answer's end or to the limit."""
    raw = b""
    while len(raw) < _HEAD_BYTES + most_bytes and not _is_whole(raw):
        rest_s = end_s - time.monotonic()
        if rest_s <= 0:
            raise TimeoutError
        connection.settimeout(rest_s)
        piece = connection.recv(16384)
        if not piece:
            break
        raw += piece
        if b"\r\n\r\n" not in raw and len(raw) > _HEAD_BYTES:
            break
    return raw


def _is_whole(raw: bytes) -> bool:
    """True once nothing more can come, for a server that keeps the connection open all the same."""
    head, empty, body = raw.partition(b"\r\n\r\n")
    if not empty:
        return False
    if _CHUNKED.search(head):
        return body.endswith(b"0\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    return length is not None and len(body) >= int(length[1])


class _Received:
    """Bytes that came already, as http.client takes them."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _read(raw: bytes, target: http.Target, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        answer, body, whole = _parsed(raw, settings)
    except (HTTPException, ValueError) as exc:
        sentence = f"What {target.host} says is no HTTP that can be read. Tell the user, or do without it."
        raise ToolProblem("not_http", sentence) from exc
    if 300 <= answer.status < 400:
        where = (answer.getheader("Location") or "somewhere")[:_SAID_CHARACTERS]
        raise ToolProblem(
            "redirected", f"{target.host} says {answer.status}: go to {where!r}, which is not followed. Tell the user."
        )
    if (answer.getheader("Content-Encoding") or "identity").strip().lower() != "identity":
        raise ToolProblem("compressed", f"{target.host} sent a compressed answer, which is not read. Do without it.")
    charset = answer.headers.get_content_charset()
    text = body.decode(charset if charset in _CHARSETS else "utf-8", errors="replace")
    if answer.status >= 400:
        said = " ".join(text.split())[:_SAID_CHARACTERS]
        raise ToolProblem("http_error", f"{target.host} says {answer.status} {answer.reason[:80]}: {said}")
    return {"status": answer.status, **_content(text, whole=whole, settings=settings)}


def _parsed(raw: bytes, settings: Mapping[str, Any]) -> tuple[HTTPResponse, bytes, bool]:
    """The answer, its body, and whether that is all of it."""
    if b"\r\n\r\n" not in raw[: _HEAD_BYTES + 4]:
        raise HTTPException("no end of the head")
    answer = HTTPResponse(_Received(raw), method=settings["method"])  # type: ignore[arg-type] # only makefile is used
    answer.begin()
    try:
        body = answer.read(settings["max_body"] + 1)
        whole = not answer.length
    except IncompleteRead as exc:
        body, whole = exc.partial, False
    return answer, body[: settings["max_body"]], whole and len(body) <= settings["max_body"]


def _content(text: str, *, whole: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        if settings["select"]:
            why = "is longer than the tool reads (max_body)" if not whole else "is no JSON"
            raise ToolProblem("not_in_answer", f"The answer {why}, so {settings['select']} is not in it.") from None
        found = text
    if settings["select"]:
        found = templates.select(found, settings["select"])
    return templates.cut(found, settings["max_answer"], whole=whole)
