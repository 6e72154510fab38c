"""Whom a request names as its host and its origin, and whether the two may meet: pure functions.

A page of any site can make a browser send requests here, and DNS rebinding can make it believe that we are that site.
The Host header says which name the browser resolved, Origin which page is asking; neither can be forged by a page.
X-Forwarded-* headers are never read: anyone can send them.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

_AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(rb"([a-z][a-z0-9+.-]*)://([^/?#\s]+)")
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


class Authority(NamedTuple):
    """The ``host[:port]`` of a Host header, a URL or an origin."""

    name: str
    """Lower-case, without the trailing dot; IP addresses in their shortest form and without brackets."""
    port: int | None
    is_ip: bool


@lru_cache(maxsize=256)
def parse_authority(text: bytes) -> Authority | None:
    """Read ``host[:port]`` strictly; None when it is anything else.

    Browsers write addresses out in full before they send them: short or hexadecimal forms (``127.1``) are names here,
    and no allow-list holds them.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    bracketed, plain, digits = match.groups()
    port = int(digits) if digits else None
    if port is not None and port > 65535:
        return None
    try:
        if bracketed:
            return Authority(str(ipaddress.IPv6Address(bracketed.decode())), port, is_ip=True)
        name = plain.decode().lower().removesuffix(".")
        return Authority(name, port, _is_ipv4(name)) if name else None
    except ValueError:
        return None


def _is_ipv4(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def machine_names(hostname: str) -> frozenset[str]:
    """The names a machine called ``hostname`` answers to: localhost, its full and short name, and its mDNS name."""
    full = hostname.lower().removesuffix(".")
    short = full.partition(".")[0]
    return frozenset({"localhost", full, short, f"{short}.local"} - {"", ".local"})


def host_allowed(host: Authority, names: frozenset[str]) -> bool:
    """Whether a Host may be answered: an IP address, or one of ``names``.

    An address cannot be rebound, only a name can. Ports are not compared: ``ssh -L`` and published ports change them.
    """
    return host.is_ip or host.name in names


@lru_cache(maxsize=256)
def origin_allowed(origin: bytes, host: Authority, others: frozenset[bytes]) -> bool:
    """Whether a page of ``origin`` may call the server it addressed as ``host``.

    Yes when it came from there itself, or when it is one of ``others`` (as ``normal_origin`` writes them).
    ``null``, which any sandboxed frame sends, never is.
    """
    normal = normal_origin(origin)
    if normal is None:
        return False
    if normal in others:
        return True
    scheme, _, authority = normal.partition(b"://")
    default = _DEFAULT_PORTS.get(scheme)
    page = parse_authority(authority)
    if default is None or page is None:
        return False
    return page.name == host.name and (page.port or default) == (host.port or default)


def normal_origin(origin: bytes) -> bytes | None:
    """An origin in one spelling: lower-case, no default port; None when it is no ``scheme://host[:port]``."""
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return None
    scheme, authority = match.groups()
    default = _DEFAULT_PORTS.get(scheme)
    return scheme + b"://" + (authority.removesuffix(b":%d" % default) if default else authority)
