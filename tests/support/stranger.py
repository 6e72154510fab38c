"""A server of OpenAI's protocol that is neither AirLab nor llama-server, and does what a test sets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.conftest import MakeLab
from tests.support.service import BOUND_S, Lab


def near(make_lab: MakeLab, url: str, **environment: str) -> Lab:
    """An AirLab whose ``big`` is the other's ``small``."""
    remote = {"url": url, "model": "small"} | ({"key_env": "BIG_KEY"} if environment else {})
    lab = make_lab("fake", models={"small": {}, "big": {"remote": remote}}, missing=("big",), environment=environment)
    manifest = json.loads(lab.manifest.read_text())
    del manifest["models"]["big"]["filename"]
    manifest["tools"] = {"builtin": ["get_current_time"]}
    lab.write_manifest(json.dumps(manifest))
    return lab


_WORD = b'data: {"choices": [{"index": 0, "delta": {"content": "and on "}}]}\n\n'


class Stranger(ThreadingHTTPServer):
    """A server of OpenAI's protocol that is neither AirLab nor llama-server."""

    daemon_threads = True

    def __init__(self, models: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Strange)
        self.models, self.up, self.takes_key = models, True, True
        self.kind = "application/json"
        """What it calls its answers."""
        self.refusal: tuple[int, dict[str, str]] | None = None
        """Status and headers of what it answers to every chat."""
        self.hangs: threading.Event | None = None
        """Where set, its streams say one word and then nothing until this is set."""
        self.is_endless = False
        """Whether its streams go on for ever, whatever was asked for."""
        self.connections: list[socket.socket] = []
        self.chats: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Strange(BaseHTTPRequestHandler):
    server: Stranger

    def setup(self) -> None:
        self.server.connections.append(self.request)
        super().setup()

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.server.up:
            self._answer(200, {"object": "list", "data": [{"id": name} for name in self.server.models]})
        else:
            self._answer(404 if self.server.up else 503, {"error": {"message": "no"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.server.up:
            self._answer(503, {"error": {"message": "no"}})
            return
        if self.server.refusal is not None:
            status, headers = self.server.refusal
            self._send(status, "application/json", b'{"error": {"message": "no"}}', **headers)
            return
        if not self.server.takes_key:
            self._answer(401, {"error": {"message": "no"}})
            return
        self.server.chats.append(({name.lower(): value for name, value in self.headers.items()}, body))
        if not body.get("stream"):
            self._answer(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": "far"}}]})
            return
        if self.server.is_endless:
            self._begin_stream()
            with suppress(OSError):  # until the other side has enough
                while True:
                    self.wfile.write(_WORD * 100)
        if self.server.hangs is not None:
            self._begin_stream()
            self.wfile.write(_WORD)
            self.server.hangs.wait(BOUND_S)
        if self.close_connection:
            return
        chunk = {"choices": [{"index": 0, "delta": {"content": "far"}, "finish_reason": "stop"}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in (chunk, usage)) + "data: [DONE]\n\n"
        self._send(200, "text/event-stream", text.encode())

    def _answer(self, status: int, content: object) -> None:
        self._send(status, self.server.kind, json.dumps(content).encode())

    def _begin_stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()

    def _send(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def bare_server(models: tuple[str, ...] = ("small",)) -> Iterator[Stranger]:
    server = Stranger(models)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        if server.hangs is not None:
            server.hangs.set()
        server.shutdown()
        server.server_close()
        thread.join(BOUND_S)
