"""A unix socket that answers like Docker's daemon, with whatever the test wants it to say."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path


@contextmanager
def scripted_dockerd(socket: Path, body: bytes, *, status: int = 200) -> Iterator[list[str]]:
    """Answer every GET with this body; yields the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Not logged: what asks through a unix socket has no address."""

    with _listening(socket, Handler):
        yield asked


@contextmanager
def hanging_up(socket: Path) -> Iterator[None]:
    """Take every connection, and end it without a word."""
    with _listening(socket, socketserver.BaseRequestHandler):
        yield


@contextmanager
def _listening(socket: Path, handler: type[socketserver.BaseRequestHandler]) -> Iterator[None]:
    with socketserver.UnixStreamServer(str(socket), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            socket.unlink()
