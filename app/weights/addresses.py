"""Whether a download may go where it is sent: the owner's own URL anywhere, a redirect of it to no private address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

from app.errors import DownloadError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether it is an address of the internet, seen through what wraps an IPv4 address in an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def addresses_of(host: str, port: int) -> tuple[Address, ...]:
    """Where a name leads. Blocks: for a thread. Raises DownloadError where it leads nowhere."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise DownloadError(f"{host} has no address: {exc}; check the name and this machine's network") from exc
    return tuple(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))


async def public_address(host: str, port: int) -> str:
    """One address of a name that a server sent us to, to connect to as it is: asked again, it could be another.

    Raises:
        DownloadError: The name leads nowhere, or anywhere but into the internet.
    """
    found = await asyncio.to_thread(addresses_of, host, port)
    private = [str(address) for address in found if not is_public(address)]
    if private or not found:
        raise DownloadError(
            f"the download was redirected to {host} ({', '.join(private)}), which is no public address; not followed"
        )
    return str(found[0])


def refuse_plain_http(url: str) -> None:
    """Without TLS a model could be exchanged, and a token read, on its way: only this network's own servers may.

    Blocks: for a thread.

    Raises:
        DownloadError: It is http, and its server is not in this network, or nowhere.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError as exc:
        raise DownloadError(f"{url[:200]} is no address: {exc}") from exc
    if parts.scheme == "https":
        return
    found = addresses_of(host, port)
    if not found or any(map(is_public, found)):
        raise DownloadError(f"{url[:200]} is not encrypted, and its server is not in this network; use https://")
