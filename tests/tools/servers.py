"""Servers on this machine for network tools to ask; only tests use it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BOUND_S = 30
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def serving(answer: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server for one client: its port."""

    def serve() -> None:
        # The client goes away as soon as it has what it wants, in the middle of an endless answer too.
        with suppress(OSError):
            plain, _ = server.accept()
            with plain, context.wrap_socket(plain, server_side=True) if context else plain as connection:
                connection.settimeout(BOUND_S)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(BOUND_S)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join(BOUND_S)
            assert not thread.is_alive()


def certificate_in(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that nobody vouches for, and its key; skips the test where none can be made."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here to make a certificate with")
    return certificate, key
