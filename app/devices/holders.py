"""Who holds what one process alone can have: a TCP port, or the lock on a file. Looks only, and takes neither."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.devices.ask import printable
from app.devices.cpu import read

_LOOKS = 5
"""A process between fork and exec has all that its parent has, for less than a look takes: so two looks must agree."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process; what another user's process hides is None."""

    pid: int | None
    name: str | None

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that this user may not see"
        return f"{self.name or 'a process'} (pid {self.pid})"


def port_holder(host: str, port: int) -> Holder | None:
    """Who listens on this port of this address, or on that of every address; None where nobody is seen to.

    Args:
        host: An IP address.
        port: TCP.
    """
    wanted = ipaddress.ip_address(host)
    pids = _listeners(wanted, port)
    for _ in range(_LOOKS - 1):
        before, pids = pids, _listeners(wanted, port)
        if pids == before:
            break
    return _holder(pids[0]) if pids else None


def _listeners(wanted: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> list[int | None]:
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):  # macOS shows them to root only
        return []
    listening = [(each.pid, *each.laddr) for each in connections if each.status == psutil.CONN_LISTEN and each.laddr]
    return [pid for pid, ip, number in listening if number == port and _meets(wanted, ip)]


def _meets(wanted: ipaddress.IPv4Address | ipaddress.IPv6Address, other: str) -> bool:
    taken = ipaddress.ip_address(other)
    return wanted == taken or wanted.is_unspecified or taken.is_unspecified


def lock_holder(file: Path) -> Holder | None:
    """Who holds a lock on the whole file; None where nobody is seen to, as on systems without /proc/locks."""
    try:
        info = file.stat()
    except OSError:
        return None
    for pid, inode in parse_locks(read(Path("/proc/locks"))):
        # An inode's number counts on its own device only, and overlays tell of another device than stat does.
        if inode == info.st_ino and _has_open(pid, file) is not False:
            return _holder(pid)
    return None


def parse_locks(text: str) -> Iterator[tuple[int, int]]:
    """Process and inode of every lock in /proc/locks that flock(2) took; waiting ones left out.

    A line is ``1: FLOCK  ADVISORY  WRITE 709 08:02:1572 0 EOF``; device numbers in hex, the inode's in decimal.
    """
    for line in text.splitlines():
        match line.split():
            case [_, "FLOCK", _, _, pid, place, *_] if pid.isdecimal() and place.rpartition(":")[2].isdecimal():
                yield int(pid), int(place.rpartition(":")[2])


def _has_open(pid: int, file: Path) -> bool | None:
    """None where the process does not let us see."""
    real = file.resolve()
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    for link in links:
        with suppress(OSError):
            if link.readlink() == real:
                return True
    return False


def _holder(pid: int | None) -> Holder:
    name = None
    if pid is not None:
        with suppress(psutil.Error):
            name = printable(psutil.Process(pid).name())
    return Holder(pid or None, name)
