"""What Docker's daemon says of itself over its socket; asked one harmless question, in time or not at all."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from app.devices.ask import printable

LIMIT_S = 5.0
_SOCKET = Path("/var/run/docker.sock")
_MOST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Docker:
    """The daemon, or why there is no answer."""

    version: str | None
    """None: it did not answer."""
    runtimes: tuple[str, ...] = ()
    """How it can run containers; ``nvidia`` is among them where it can hand GPUs on."""
    rootless: bool = False
    """True: whoever may use it is not root on this machine by that."""
    why_not: str = ""
    denied: bool = False
    """True: this user may not use its socket."""


def docker_socket(environment: Mapping[str, str]) -> Path | None:
    """Where the daemon's socket should be: DOCKER_HOST, else the usual place; None where it is no unix socket."""
    host = environment.get("DOCKER_HOST", "")
    if not host:
        return _SOCKET
    return Path(host.removeprefix("unix://")) if host.startswith("unix://") else None


def ask_docker(place: Path, *, limit_s: float = LIMIT_S) -> Docker:
    """Ask the daemon at this socket what it is; whatever goes wrong is told and never raised.

    Blocks for ``limit_s`` from one byte to the next, and for twice that in all once the answer's body has begun.
    """
    try:
        told = _info(place, limit_s)
    except PermissionError:
        return Docker(None, why_not="may not be used by this user", denied=True)
    except TimeoutError:
        return Docker(None, why_not=f"did not answer within {limit_s:g} s")
    except (HTTPException, OSError, ValueError, RecursionError) as exc:
        return Docker(None, why_not=f"gave no answer that AirLab can read: {printable(str(exc)) or type(exc).__name__}")
    version, runtimes, security = told.get("ServerVersion"), told.get("Runtimes"), told.get("SecurityOptions")
    if not isinstance(version, str):
        return Docker(None, why_not="gave no answer that AirLab can read: it names no version")
    return Docker(
        printable(version),
        tuple(map(printable, runtimes)) if isinstance(runtimes, dict) else (),
        isinstance(security, list) and "name=rootless" in security,
    )


def _info(place: Path, limit_s: float) -> dict[str, Any]:
    body, ends_s = b"", time.monotonic() + 2 * limit_s
    with closing(_Connection(place, limit_s)) as connection:
        connection.request("GET", "/info")
        answer = connection.getresponse()
        while piece := answer.read1(_MOST_BYTES):
            body += piece
            if len(body) > _MOST_BYTES or time.monotonic() > ends_s:
                raise ValueError("it does not stop talking")
    if answer.status != HTTPStatus.OK:
        raise ValueError(f"status {answer.status}")
    told = json.loads(body)
    if not isinstance(told, dict):
        raise ValueError("it is no object")  # noqa: TRY004 # of what was sent, not of a caller's argument
    return told


class _Connection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, place: Path, limit_s: float) -> None:
        super().__init__("docker", timeout=limit_s)
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._place))
