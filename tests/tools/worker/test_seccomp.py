"""What the filters decide, on both machines: run here as the kernel would run them, call by call."""

from __future__ import annotations

import errno
import fcntl
import mmap
import socket
import struct
from typing import Literal, get_args

import pytest

from app.tools.base import WorkerKind
from app.tools.worker import kernel, seccomp

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
KINDS: tuple[WorkerKind, ...] = get_args(WorkerKind)
CONFINED: tuple[WorkerKind, ...] = ("fs_read", "fs_write", "net")
BOTH = pytest.mark.parametrize("machine", MACHINES)

Decision = Literal["allow", "refuse", "absent", "kill"]
_ANSWERS: dict[int, Decision] = {
    0x7FFF0000: "allow",
    0x00050000 | errno.EPERM: "refuse",
    0x00050000 | errno.ENOSYS: "absent",
    0x80000000: "kill",
}


def run(program: bytes, number: int, *arguments: int, architecture: int) -> Decision:
    """A filter's answer to one call, by the meaning of its instructions."""
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("=iIQ6Q", number, architecture, 0, *padded)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    held, at = 0, 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (held,) = struct.unpack_from("=I", data, value)
            case 0x54:
                held &= value
            case 0x15 | 0x35 | 0x25:
                holds = {0x15: held == value, 0x35: held >= value, 0x25: held > value}[operation]
                at += if_true if holds else if_false
            case 0x06:
                return _ANSWERS[value]
            case _:
                raise AssertionError(f"an instruction that nobody wrote: {operation:#x}")


def decide(kind: WorkerKind, machine: str, name: str, *arguments: int) -> Decision:
    number = kernel.number(name, machine)
    assert number is not None, f"{machine} has no {name}"
    return run(seccomp.filter_for(kind, machine), number, *arguments, architecture=MACHINES[machine])


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_another_architectures_call_ends_the_process(kind: WorkerKind, machine: str) -> None:
    """The same number means another call there: 32-bit calls on a 64-bit kernel, and x32's."""
    program = seccomp.filter_for(kind, machine)
    number = kernel.number("read", machine) or 0
    others = (0x40000003, 0x40000028, *(value for name, value in MACHINES.items() if name != machine))

    assert {run(program, number, architecture=other) for other in others} == {"kill"}
    if machine == "x86_64":
        assert run(program, 0x40000000 | number, architecture=MACHINES[machine]) == "kill"


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_call_that_came_after_us_is_answered_as_on_an_older_kernel(kind: WorkerKind, machine: str) -> None:
    """ENOSYS makes a C library take the older way, which is judged; clone3 hides its flags, so it is older, too."""
    program = seccomp.filter_for(kind, machine)
    for number in (kernel.CEILING + 1, 500, 100_000, kernel.number("clone3", machine) or 0):
        assert run(program, number, architecture=MACHINES[machine]) == "absent"


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_what_leads_out_is_refused_to_every_kind(kind: WorkerKind, machine: str) -> None:
    spared = {"execve", "fork", "vfork", "clone", "kill"} if kind == "command" else set()
    names = [name for name in kernel.REFUSED if kernel.number(name, machine) is not None and name != "clone3"]

    assert {decide(kind, machine, name) for name in names if name not in spared} == {"refuse"}


@BOTH
@pytest.mark.parametrize("kind", CONFINED)
def test_kinds_without_programs_have_a_list_of_what_they_may(kind: WorkerKind, machine: str) -> None:
    """Any number that no list names is refused, whatever it is."""
    named = {**kernel.CALM, **(kernel.WRITE if kind == "fs_write" else {}), **(kernel.NET if kind == "net" else {})}
    listed = {kernel.number(name, machine) for name in named}
    program = seccomp.filter_for(kind, machine)
    unlisted = set(range(kernel.CEILING + 1)) - listed - {kernel.number("clone3", machine)}

    assert {run(program, number, architecture=MACHINES[machine]) for number in unlisted} == {"refuse"}


@BOTH
def test_only_their_own_kind_writes_and_talks(machine: str) -> None:
    writes = {kind for kind in CONFINED if decide(kind, machine, "unlinkat") == "allow"}
    talks = {kind for kind in KINDS if decide(kind, machine, "connect") == "allow"}
    runs = {kind for kind in KINDS if decide(kind, machine, "execve") == "allow"}

    assert (writes, talks, runs) == ({"fs_write"}, {"net"}, {"command"})


@BOTH
def test_sockets_are_of_two_families_and_known_protocols(machine: str) -> None:
    def made(family: int, kind: int, protocol: int = 0) -> Decision:
        return decide("net", machine, "socket", family, kind, protocol)

    cloexec = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    assert made(socket.AF_INET, socket.SOCK_STREAM) == "allow"
    assert made(socket.AF_INET6, cloexec, socket.IPPROTO_TCP) == "allow"
    assert made(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) == "allow"
    for family in (socket.AF_UNIX, 16, 17, 38, 40, 0xFFFFFFFF):
        assert made(family, socket.SOCK_STREAM) == "refuse"
    for kind in (socket.SOCK_RAW, socket.SOCK_SEQPACKET, 6, 10):
        assert made(socket.AF_INET, kind) == "refuse"
    for protocol in (262, 132, 136, 255):
        assert made(socket.AF_INET, socket.SOCK_STREAM, protocol) == "refuse"


@BOTH
def test_datagram_with_an_address_is_refused(machine: str) -> None:
    """With one, TCP Fast Open opens a connection without connect; either half of the pointer counts."""
    for address, decision in ((0, "allow"), (0x7FFF0000, "refuse"), (1 << 40, "refuse")):
        assert decide("net", machine, "sendto", 3, 0, 0, 0, address, 0) == decision


@BOTH
def test_no_new_machine_code_where_no_program_runs(machine: str) -> None:
    for name in ("mmap", "mprotect"):
        assert decide("fs_read", machine, name, 0, 4096, mmap.PROT_READ | mmap.PROT_WRITE) == "allow"
        assert decide("fs_read", machine, name, 0, 4096, mmap.PROT_READ | mmap.PROT_EXEC) == "refuse"
        assert decide("command", machine, name, 0, 4096, mmap.PROT_READ | mmap.PROT_EXEC) == "allow"


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_descriptor_cannot_send_signals_nor_be_told_more_than_a_terminal(kind: WorkerKind, machine: str) -> None:
    assert decide(kind, machine, "fcntl", 0, fcntl.F_DUPFD_CLOEXEC) == "allow"
    assert decide(kind, machine, "fcntl", 0, fcntl.F_SETOWN, 1) == "refuse"
    assert decide(kind, machine, "fcntl", 0, fcntl.F_SETSIG, 9) == "refuse"
    assert decide(kind, machine, "ioctl", 0, 0x5401) == "allow"
    for dangerous in (0x5412, 0x541C, 0x40086602):  # TIOCSTI, TIOCLINUX, FS_IOC_SETFLAGS
        assert decide(kind, machine, "ioctl", 0, dangerous) == "refuse"


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_limits_are_its_own_and_filters_only_tighten(kind: WorkerKind, machine: str) -> None:
    assert decide(kind, machine, "prlimit64", 0) == "allow"
    assert decide(kind, machine, "prlimit64", 4711) == "refuse"
    assert decide(kind, machine, "seccomp", 1, 0) == "allow"
    for operation, flags in ((0, 0), (1, 8), (3, 0)):
        assert decide(kind, machine, "seccomp", operation, flags) == "refuse"


@BOTH
def test_program_starts_others_but_leaves_neither_its_namespaces_nor_its_group(machine: str) -> None:
    for flags, decision in ((0x1200011, "allow"), (0x10000000, "refuse"), (0x20000, "refuse"), (0x8000, "refuse")):
        assert decide("command", machine, "clone", flags) == decision
    assert decide("command", machine, "kill", 0, 9) == "allow"
    for pid, number in ((0, 15), (1, 9), (0xFFFFFFFF, 9), (4711, 9)):
        assert decide("command", machine, "kill", pid, number) == "refuse"


def test_connected_worker_makes_no_new_connection() -> None:
    here = kernel.machine()
    program = seccomp.filter_after_connecting()
    answers = {
        name: run(program, kernel.number(name) or 0, architecture=MACHINES[here])
        for name in ("socket", "connect", "sendmmsg", "recvfrom")
    }

    assert answers == {"socket": "refuse", "connect": "refuse", "sendmmsg": "refuse", "recvfrom": "allow"}
