"""Which system calls a worker may make: filters of the kernel, put together here for x86-64 and arm64.

Workers for files and network have a list of what they may call. A ``command`` worker runs programs that nobody knows
ahead, so it has a list of what they may not; both end at the newest call that the lists were written with. A filter
cannot be taken off again, and holds for everything that the process starts.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import signal
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from app.tools.base import WorkerKind
from app.tools.worker import kernel

_LOAD, _AND, _EQUAL, _AT_LEAST, _MORE, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x25, 0x06
_KILL, _ALLOW, _REFUSE, _ABSENT = 0x80000000, 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
"""End the process; allow; answer EPERM; answer ENOSYS, at which C libraries take the older way."""
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
"""Numbers from here on are x32, a second way to every call on x86-64, past every list."""
_MODE_FILTER = 1

Instruction = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Only:
    """A call is allowed if one half of an argument, masked, is one of these."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    upper: bool = False
    """The upper 32 bits; the kernel itself cuts what it takes as an int."""


_IOCTLS = (0x5413, 0x5401, 0x5451, 0x5450, 0x541B, 0x5421)
"""A terminal's size and state, FIOCLEX, FIONCLEX, FIONREAD, FIONBIO."""
_OPEN_FILE_LOCKS = (36, 37, 38)
_NEW_NAMESPACE_OR_BROTHER = 0x7E028000
"""clone: CLONE_NEW*, and CLONE_PARENT, whose child nobody would wait for."""

_CAREFUL: Mapping[str, tuple[_Only, ...]] = {
    "ioctl": (_Only(1, _IOCTLS),),
    # Not F_SETOWN and F_SETSIG: with them the kernel sends a chosen signal to a chosen process.
    "fcntl": (
        _Only(
            1,
            (
                *(fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_DUPFD_CLOEXEC),
                *(fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, *_OPEN_FILE_LOCKS),
            ),
        ),
    ),
    "prlimit64": (_Only(0, (0,)),),  # its own limits only
    "seccomp": (_Only(0, (_MODE_FILTER,)), _Only(1, (0,))),
}
_NO_NEW_CODE: Mapping[str, tuple[_Only, ...]] = {
    name: (_Only(2, (0,), mask=mmap.PROT_EXEC),) for name in ("mmap", "mprotect")
}
_SOCKETS: Mapping[str, tuple[_Only, ...]] = {
    "socket": (
        _Only(0, (socket.AF_INET, socket.AF_INET6)),
        _Only(1, (socket.SOCK_STREAM, socket.SOCK_DGRAM), mask=0xF),
        # Not Multipath TCP, which Landlock's rules for TCP do not see (seen).
        _Only(2, (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)),
    ),
    # No address: with one, TCP Fast Open connects without connect (seen).
    "sendto": (_Only(4, (0,)), _Only(4, (0,), upper=True)),
}
_PROGRAMS: Mapping[str, tuple[_Only, ...]] = {
    "clone": (_Only(0, (0,), mask=_NEW_NAMESPACE_OR_BROTHER),),
    # Its own group only, as a whole: how a worker ends with all that it started.
    "kill": (_Only(0, (0,)), _Only(1, (signal.SIGKILL,))),
}


@cache
def filter_for(kind: WorkerKind, machine: str | None = None) -> bytes:
    """The filter of a kind of worker, as the kernel reads it; for this machine unless another is named.

    Raises:
        Unfit: This machine is not known.
    """
    if kind == "command":
        rules: dict[str, tuple[_Only, ...] | None] = dict.fromkeys((*kernel.REFUSED, *kernel.NET))
        for name in ("execve", "fork", "vfork"):
            del rules[name]
        rules |= {**_CAREFUL, **_PROGRAMS}
        return _assembled(rules, otherwise=_ALLOW, machine=machine or kernel.machine())
    more = {"fs_read": (), "fs_write": kernel.WRITE, "net": kernel.NET}[kind]
    rules = dict.fromkeys((*kernel.CALM, *more), ())
    rules |= {**_CAREFUL, **_NO_NEW_CODE, **(_SOCKETS if kind == "net" else {})}
    return _assembled(rules, otherwise=_REFUSE, machine=machine or kernel.machine())


@cache
def filter_after_connecting() -> bytes:
    """A second filter for a ``net`` worker that has its connections: no new ones. Raises as ``filter_for`` does."""
    rules: dict[str, tuple[_Only, ...] | None] = dict.fromkeys(("socket", "connect", "sendmmsg"))
    return _assembled(rules, otherwise=_ALLOW, machine=kernel.machine())


def install(program: bytes) -> None:
    """Put a filter in force for this process and all that it starts; needs ``kernel.give_up_new_privileges``.

    Raises:
        Unfit: The kernel takes no filter.
    """
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
    try:
        kernel.call("seccomp", _MODE_FILTER, 0, header)
    except OSError as exc:
        raise kernel.Unfit(f"the kernel takes no filter of system calls (seccomp): {exc.strerror}") from exc


def _assembled(rules: Mapping[str, tuple[_Only, ...] | None], *, otherwise: int, machine: str) -> bytes:
    """Machine code of a filter: None refuses a call, an empty tuple allows it, conditions allow it where all hold."""
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += _if(_AT_LEAST, _X32, [(_RETURN, 0, 0, _KILL)])
    code += _if(_MORE, kernel.CEILING, [(_RETURN, 0, 0, _ABSENT)])
    code += _if(_EQUAL, kernel.number("clone3", machine) or 0, [(_RETURN, 0, 0, _ABSENT)])
    for name, conditions in rules.items():
        number = kernel.number(name, machine)
        if number is not None:
            code += _if(_EQUAL, number, [(_RETURN, 0, 0, _REFUSE)] if conditions is None else _unless_wrong(conditions))
    code.append((_RETURN, 0, 0, otherwise))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _if(comparison: int, value: int, then: list[Instruction]) -> list[Instruction]:
    return [(comparison, 0, len(then), value), *then]


def _unless_wrong(conditions: Iterable[_Only]) -> list[Instruction]:
    code: list[Instruction] = []
    for only in conditions:
        code.append((_LOAD, 0, 0, _ARGUMENTS + 8 * only.argument + 4 * only.upper))
        if only.mask != 0xFFFFFFFF:
            code.append((_AND, 0, 0, only.mask))
        # Each value that fits jumps over the remaining ones and the refusal.
        code += [(_EQUAL, len(only.values) - at, 0, value) for at, value in enumerate(only.values)]
        code.append((_RETURN, 0, 0, _REFUSE))
    return [*code, (_RETURN, 0, 0, _ALLOW)]
