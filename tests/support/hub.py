"""A stand-in for a Hugging Face hub, over loopback: what the real library asks of one, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "a" * 40
BOUND_S = 20.0
ZEROS_BYTES = 64 * 1024


@dataclass
class Asked:
    """One request."""

    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        """The part that was asked for."""
        return self.headers.get("range")

    @property
    def is_look(self) -> bool:
        """Whether only the file's beginning was asked for, as before a download."""
        return re.fullmatch(r"bytes=0-\d+", self.range or "") is not None


@dataclass
class Hub:
    """What the hub holds, and how it behaves."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    """Files at plain addresses, by path."""
    claims: dict[str, int] = field(default_factory=dict)
    """Files, by their last name, that are so long: behind what there is of them come zeros."""
    gated: set[str] = field(default_factory=set)
    token: str | None = None
    """Where set, nothing is answered without it."""
    cut_after: list[int] = field(default_factory=list)
    """How many bytes of a body the next answers send before the connection breaks, one after another."""
    statuses: list[int] = field(default_factory=list)
    """What the next requests for files are answered with instead."""
    retry_after: str | None = None
    """Sent with those."""
    lie_about_hash: bool = False
    ranges: bool = True
    etags: bool = True
    list_redirect: str | None = None
    """Where requests for lists of files are sent to."""
    redirect: str | None = None
    """Where requests for files are sent to; {path} stands for theirs."""
    linked_etag: str | None = None
    hold_after: int | None = None
    """After so many bytes of a body, wait for ``released``."""
    held: threading.Event = field(default_factory=threading.Event)
    """Set while an answer waits."""
    released: threading.Event = field(default_factory=threading.Event)
    spare_looks: bool = True
    """Whether the faults above are for downloads alone, and not for who only looks at a file's beginning."""
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    @property
    def files_asked(self) -> list[Asked]:
        """Requests for files, not for lists of them, and not for no more than a file's beginning."""
        files = [one for one in self.asked if not one.path.startswith("/api/") and not one.path.endswith(".sha256")]
        return [one for one in files if not one.is_look]

    @property
    def looks(self) -> list[Asked]:
        """Requests for the beginning of a file."""
        return [one for one in self.asked if one.is_look]

    def info(self, repo: str) -> dict[str, Any]:
        """What /api/models/ORG/REPO answers."""
        files = self.repos[repo]
        return {
            "id": repo,
            "sha": REVISION,
            "siblings": [
                {"rfilename": name, "size": self.size(name, data), "blobId": "b" * 40, "lfs": self._lfs(data)}
                for name, data in files.items()
            ],
        }

    def size(self, path: str, data: bytes) -> int:
        """How long a file is said to be."""
        return self.claims.get(path.rpartition("/")[2], len(data))

    def _lfs(self, data: bytes) -> dict[str, Any]:
        sha256 = "0" * 64 if self.lie_about_hash else hashlib.sha256(data).hexdigest()
        return {"sha256": sha256, "size": len(data), "pointerSize": 134}

    def file(self, path: str) -> tuple[bytes | None, str]:
        """What lies at a path, and in which repository."""
        match = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{REVISION}/(.+)", path)
        if match:
            return self.repos.get(match[1], {}).get(match[2]), match[1]
        return self.plain.get(path), ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who has seen enough of a file breaks off, and that is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    now: Asked
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = self.path.partition("?")[0]
        self.now = Asked(self.path, headers)
        hub.asked.append(self.now)
        if hub.token is not None and headers.get("authorization") != f"Bearer {hub.token}":
            self._answer(401, b"{}", {"x-error-code": "RepoNotFound"})
        elif path.startswith("/api/models/"):
            self._list(path.removeprefix("/api/models/"))
        else:
            self._file(path, headers)

    def _list(self, repo: str) -> None:
        hub = self.server.hub
        if hub.list_redirect is not None:
            self._answer(307, b"", {"location": hub.list_redirect})
        elif repo in hub.gated:
            self._answer(401, b"{}", {"x-error-code": "GatedRepo", "x-error-message": "gated"})
        elif repo not in hub.repos:
            self._answer(404, b"{}", {"x-error-code": "RepoNotFound"})
        else:
            self._answer(200, json.dumps(hub.info(repo)).encode(), {"content-type": "application/json"})

    def _file(self, path: str, headers: Mapping[str, str]) -> None:
        hub = self.server.hub
        data, _ = hub.file(path)
        if hub.redirect is not None:
            more = {"x-linked-etag": f'"{hub.linked_etag}"'} if hub.linked_etag else {}
            self._answer(302, b"", {"location": hub.redirect.format(path=path), **more})
        elif data is None:
            self._answer(404, b"no such file", {})
        elif hub.statuses and not path.endswith(".sha256") and not self._is_spared():
            self._answer(hub.statuses.pop(0), b"", {"retry-after": hub.retry_after} if hub.retry_after else {})
        else:
            self._send(data, headers, hub.size(path, data))

    def _is_spared(self) -> bool:
        return self.server.hub.spare_looks and self.now.is_look

    def _send(self, data: bytes, headers: Mapping[str, str], size: int) -> None:
        hub = self.server.hub
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", "")) if hub.ranges else None
        begins = int(match[1]) if match else 0
        ends = min(size, int(match[2]) + 1) if match and match[2] else size
        body = data[begins:ends]
        more = {"etag": f'"{hashlib.sha256(data).hexdigest()[:20]}"'} if hub.etags else {}
        if begins >= size > 0:
            self._answer(416, b"", {"content-range": f"bytes */{size}"})
            return
        self.send_response(206 if match else 200)
        if match:
            self.send_header("content-range", f"bytes {begins}-{ends - 1}/{size}")
        for name, value in {"content-length": str(ends - begins), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self._body(body)
        for left in range(ends - begins - len(body), 0, -ZEROS_BYTES):
            self._write(bytes(min(left, ZEROS_BYTES)))
            if self.close_connection:
                return

    def _body(self, body: bytes) -> None:
        hub = self.server.hub
        if self._is_spared():
            self._write(body)
            return
        cut = hub.cut_after.pop(0) if hub.cut_after else None
        if cut is not None:
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        if hub.hold_after is not None:
            self.wfile.write(body[: hub.hold_after])
            hub.held.set()
            hub.released.wait(BOUND_S)
            body = body[hub.hold_after :]
        self._write(body)

    def _write(self, body: bytes) -> None:
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running_hub(**more: Any) -> Iterator[Hub]:
    """A hub on a free port, gone at the end of the block."""
    hub = Hub(**more)
    server = _Server(hub)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join(BOUND_S)
