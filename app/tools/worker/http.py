"""Asks a web server for the head of one answer, and times it. Follows nothing, and reads 64 KiB at most.

Runs in a worker of kind ``net``. It connects to an address that was judged, not to a name that could mean another one
by then, and gives up the power to connect before it reads a byte of what the server sends.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from app.tools.base import Confinement, ToolProblem
from app.tools.worker import lockdown, net

_TIME_S = 10.0
_CONNECT_S = 3.0
_HEAD_BYTES = 64 * 1024
_LOCATION_CHARACTERS = 200
_ADDRESSES_TRIED = 2
_TARGET = re.compile(r"(?:(https?)://)?(\[[0-9A-Fa-f:.]+\]|[^\s/:?#@\[\]]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_LOCATION = re.compile(rb"\r\nlocation:[ \t]*([^\r\n]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The host as HTTP writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    took_s: float
    """From the first try to connect to the first byte of the answer."""
    status: int
    location: str | None
    """Where a redirect points to, as the server wrote it: not to be trusted."""


def read_target(text: str, inside: Confinement) -> Target:
    """Read a host that a model wrote: a name, with ``http://`` or ``https://`` before it and a port behind it or not.

    Raises:
        ToolProblem: ``invalid_hostname`` or ``port_not_allowed``.
    """
    parts = _TARGET.fullmatch(text)
    if parts is None:
        sentence = f"{text[:80]!r} is no host. Give one like example.org or http://example.org, without path or user."
        raise ToolProblem("invalid_hostname", sentence)
    scheme = (parts[1] or "https").lower()
    port = int(parts[3] or _default_port(scheme))
    if port not in inside.ports:
        allowed = ", ".join(map(str, inside.ports)) or "none"
        raise ToolProblem("port_not_allowed", f"Port {port} is not open to tools. Open are: {allowed}.")
    return Target(scheme, net.plain_name(parts[2].strip("[]")), port)


def ask(target: Target, inside: Confinement) -> Answer:
    """Ask for the head of the first page, over a connection that is checked as a browser would.

    Raises:
        ToolProblem: It may not be contacted, does not answer, is not trusted, or does not speak HTTP.
    """
    with connected(target, inside, _TIME_S) as (connection, begin_s, end_s):
        connection.sendall(_request(target))
        head, first_byte_s = _head_of(connection, end_s)
    return _read_answer(head, first_byte_s - begin_s, target)


@contextmanager
def connected(
    target: Target, inside: Confinement, time_s: float
) -> Iterator[tuple[socket.socket | ssl.SSLSocket, float, float]]:
    """A connection to a server whose addresses were judged; what goes wrong while it is used is said in words.

    Args:
        target: Whom to ask.
        inside: Where one may go.
        time_s: Seconds for all of it.

    Yields:
        The connection; when the first try to connect began, by ``time.perf_counter``; when the time is over, by
        ``time.monotonic``.

    Raises:
        ToolProblem: It may not be contacted, does not answer, is not trusted, or breaks off.
    """
    end_s = time.monotonic() + time_s
    addresses = net.resolve(target.host)
    for address in addresses:
        # One private address among public ones is how a name of the internet is made to point into a house.
        net.refuse(address, inside)
    begin_s = time.perf_counter()
    with _connected(addresses, target) as plain:
        lockdown.close_network()
        try:
            plain.settimeout(max(end_s - time.monotonic(), 0.001))
            with _secured(plain, target) if target.scheme == "https" else plain as connection:
                yield connection, begin_s, end_s
        except TimeoutError as exc:
            raise ToolProblem("timeout", f"{target.host} did not answer in {time_s:.0f} s. Try another.") from exc
        except ssl.SSLCertVerificationError as exc:
            sentence = f"The certificate of {target.host} is not to be trusted: {exc.verify_message}. Tell the user."
            raise ToolProblem("certificate_not_trusted", sentence) from exc
        except OSError as exc:
            sentence = f"{target.host} broke off: {exc.strerror or exc}. Try {_other(target.scheme)}://{target.host}."
            raise ToolProblem("no_answer", sentence) from exc


def _connected(addresses: Sequence[net.Address], target: Target) -> socket.socket:
    why = "no address"
    for address in addresses[:_ADDRESSES_TRIED]:
        try:
            return socket.create_connection((str(address), target.port), timeout=_CONNECT_S)
        except OSError as exc:
            why = exc.strerror or "no answer in time"
    sentence = f"{target.host} does not answer on port {target.port}: {why}."
    raise ToolProblem("no_answer", f"{sentence} Try {_other(target.scheme)}://{target.host}.")


def _secured(plain: socket.socket, target: Target) -> ssl.SSLSocket:
    # Here and not above: the zygote has it, the service does not need it.
    from app.tools.worker.trust import CONTEXT  # noqa: PLC0415

    if not CONTEXT.cert_store_stats()["x509_ca"]:
        sentence = "This system knows no certificates, so no https host can be checked. Try http://"
        raise ToolProblem("no_certificates", f"{sentence}{target.host}, or ask the user to install ca-certificates.")
    return CONTEXT.wrap_socket(plain, server_hostname=target.host)


def _request(target: Target) -> bytes:
    lines = ("HEAD / HTTP/1.1", f"Host: {target.authority}", "User-Agent: AirLab", "Accept: */*", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode()


def _head_of(connection: socket.socket, end_s: float) -> tuple[bytes, float]:
    """What the server sends up to the empty line, to its end or to the limit; and when the first of it came."""
    head, first_byte_s = b"", None
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
        connection.settimeout(max(end_s - time.monotonic(), 0.001))
        piece = connection.recv(4096)
        first_byte_s = first_byte_s or time.perf_counter()
        if not piece:
            break
        head += piece
    return head, first_byte_s or time.perf_counter()


def _read_answer(head: bytes, took_s: float, target: Target) -> Answer:
    status = _STATUS.match(head)
    if status is None:
        sentence = f"{target.host} does not speak HTTP on port {target.port}. Try another host."
        raise ToolProblem("not_http", sentence)
    location = _LOCATION.search(head)
    said = None if location is None else location[1].decode(errors="replace").strip()[:_LOCATION_CHARACTERS]
    return Answer(took_s, int(status[1]), said)


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _other(scheme: str) -> str:
    return "http" if scheme == "https" else "https"
