"""Finds addresses and times how long they take to answer; contacts none that is not public, unless policy names it.

Runs in a worker of kind ``net``, which has no files. Only what the resolver answered is judged, never the text that
was asked for: ``127.1``, ``2130706433`` and even circled digits are all loopback (seen).
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 # the codec that getaddrinfo needs for names beyond ASCII; no imports after lock-down
import ipaddress
import os
import re
import socket
import struct
import time

from app.tools.base import Confinement, ToolProblem

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAME_CHARACTERS = 253
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
"""What a name, an IPv4 or an IPv6 address is written with; whether it is one says the resolver."""
_ANSWERS = 20
_TIMEOUT_S = 2.0
_PORTS_TRIED = 2
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NEVER = (ipaddress.ip_network("64:ff9b:1::/48"), ipaddress.ip_network("192.88.99.0/24"))
"""Local NAT64 and 6to4 relays: ``is_global`` says yes to them, on some versions of Python."""


def is_public(address: Address) -> bool:
    """True for an address on the open internet, once an IPv4 address that hides in an IPv6 one is taken out."""
    address = _unwrapped(address)
    if any(address in network for network in _NEVER if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def may_contact(address: Address, inside: Confinement) -> bool:
    """True for a public address, and for one that policy names in ``network.allow_private``."""
    if is_public(address):
        return True
    address = _unwrapped(address)
    allowed = map(ipaddress.ip_network, inside.allow_private)
    return any(address in network for network in allowed if network.version == address.version)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for; itself otherwise."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    hidden = address.ipv4_mapped or address.sixtofour
    if hidden is None and address in _NAT64:
        hidden = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address if hidden is None else hidden


def plain_name(hostname: str) -> str:
    """A host's name as DNS, TLS and HTTP all write it: ASCII, and nothing that any of them reads as more than a name.

    Raises:
        ToolProblem: ``invalid_hostname``.
    """
    try:
        name = hostname if hostname.isascii() else hostname.encode("idna").decode()
    except UnicodeError:
        name = ""
    if len(name) > NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise ToolProblem(
            "invalid_hostname",
            f"{hostname[:80]!r} is no host name. Give the bare name, such as example.org, of at most "
            f"{NAME_CHARACTERS} characters.",
        )
    return name


def resolve(hostname: str) -> list[Address]:
    """The addresses of a name, at most 20, in the resolver's order.

    Raises:
        ToolProblem: ``invalid_hostname`` or ``not_resolved``.
    """
    name = plain_name(hostname)
    # Read by the C library at its first lookup; by itself it would wait 5 s, twice, for each server.
    os.environ["RES_OPTIONS"] = f"timeout:{_TIMEOUT_S:.0f} attempts:1"
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not a name that DNS can hold"
        raise ToolProblem("not_resolved", f"{name} has no address: {why}. Check the spelling.") from exc
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return [ipaddress.ip_address(text) for text in texts][:_ANSWERS]


def refuse(address: Address, inside: Confinement) -> None:
    """Say no to an address that may not be contacted.

    Raises:
        ToolProblem: ``address_not_allowed``.
    """
    if not may_contact(address, inside):
        sentence = f"{address} is not a public address; it is not contacted. Choose a host on the internet."
        raise ToolProblem("address_not_allowed", sentence)


def answer_ms(address: Address, inside: Confinement) -> float | None:
    """Milliseconds until an address answers: an ICMP echo, else a TCP connection; None when neither comes.

    Raises:
        ToolProblem: ``address_not_allowed``.
    """
    refuse(address, inside)
    took_s = _echo_s(address)
    if took_s is None:
        tries = (_connect_s(address, port) for port in inside.ports[:_PORTS_TRIED])
        took_s = next((took for took in tries if took is not None), None)
    return None if took_s is None else round(took_s * 1000, 1)


def _echo_s(address: Address) -> float | None:
    """Seconds for one ICMP echo; None without an answer, or where the system gives us no such socket.

    Unprivileged echo sockets are Linux's ``net.ipv4.ping_group_range``; the kernel fills in identifier and checksum.
    """
    if address.version == 4:
        family, protocol, request = socket.AF_INET, socket.IPPROTO_ICMP, 8
    else:
        family, protocol, request = socket.AF_INET6, socket.IPPROTO_ICMPV6, 128
    try:
        with socket.socket(family, socket.SOCK_DGRAM, protocol) as echo:
            echo.settimeout(_TIMEOUT_S)
            echo.connect((str(address), 0))
            begin_s = time.perf_counter()
            echo.send(struct.pack("!BBHHH", request, 0, 0, 0, 1) + b"airlab")
            echo.recv(64)
            return time.perf_counter() - begin_s
    except OSError:
        return None


def _connect_s(address: Address, port: int) -> float | None:
    """Seconds until a TCP connection stands or is refused, which is an answer too; None without one."""
    begin_s = time.perf_counter()
    try:
        socket.create_connection((str(address), port), timeout=_TIMEOUT_S).close()
    except ConnectionRefusedError:
        pass
    except OSError:
        return None
    return time.perf_counter() - begin_s
