"""Takes from this worker what its one call does not need: after the imports, before the arguments arrive.

The single place for that. Limits first, then files by Landlock, then system calls by seccomp; then it looks whether
both hold. Nothing of it can be taken back by what runs here later, and all of it holds for whatever that starts.
"""

from __future__ import annotations

import ctypes
import glob
import math
import os
import resource
import struct
import zoneinfo
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from app.tools.base import Confinement, WorkerKind
from app.tools.worker import kernel, seccomp
from app.tools.worker.grants import Ground, grant_roots
from app.tools.worker.kernel import Unfit
from app.tools.worker.landlock import CHANGE, EXECUTE, READ, READ_FILE, WRITE_FILE, Ruleset

_MIB = 1024**2
_DNS_PORT = 53
_WRITE_MARGIN_BYTES = 64 * 1024
"""What a file may grow beyond the policy's limit, so that the tool's own answer comes before the kernel's."""

_LIMITS: Mapping[WorkerKind, tuple[int, int]] = {
    "fs_read": (512 * _MIB, 32),
    "fs_write": (512 * _MIB, 32),
    "net": (512 * _MIB, 32),
    "command": (2048 * _MIB, 256),
}
"""Bytes of address space, and open files."""

_MORE_TASKS = 512
"""How many processes and threads a program may start, one that never stops starting them among them."""

_PASS_OVER_MODES, _PASS_OVER_READ_MODES = 1 << 1, 1 << 2
_CAPABILITIES: Mapping[WorkerKind, int] = {
    "fs_read": _PASS_OVER_READ_MODES,
    "fs_write": _PASS_OVER_MODES | _PASS_OVER_READ_MODES,
    "net": 0,
    "command": _PASS_OVER_MODES | _PASS_OVER_READ_MODES,
}
"""All that is left of root's powers where AirLab runs as root: to use files of others, below the roots."""
_CAPABILITIES_VERSION = 0x20080522

_RESOLVER = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FOR_PROGRAMS = ("/etc/ld.so.cache", "/etc/localtime", "/dev/zero", "/dev/urandom")
_LOADERS = ("/lib*/ld-*.so*", "/lib/*/ld-*.so*", "/usr/lib*/ld-*.so*", "/usr/lib/*/ld-*.so*")


def lock_down(inside: Confinement, *, degraded: bool = False) -> Ground:
    """Build the wall round this process, for good.

    Args:
        inside: What is left open.
        degraded: Go on without the parts that this system does not have, where somebody accepted that.

    Returns:
        What the wall stands on, to look at when the call comes.

    Raises:
        Unfit: This system cannot do it.
    """
    ground = Ground()
    _limit(inside)
    for build in (_give_up_powers, _confine_files, _confine_calls):
        try:
            build(inside, ground)
        except Unfit:
            if not degraded:
                raise
        except OSError as exc:
            raise Unfit(f"the wall round a {inside.kind} worker cannot be built: {exc}") from exc
    if not degraded:
        _look_back()
    return ground


def limit_call(seconds: float) -> None:
    """Processor time for the call that begins now: the caller's clock is faster, unless the caller is gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds) + 1)


def close_network() -> None:
    """In a ``net`` worker that has its connections: no new ones, no file, before it reads what the other side says.

    Raises:
        Unfit: The kernel did not do it; nothing of the other side should be read then.
    """
    seccomp.install(seccomp.filter_after_connecting())
    with Ruleset(tcp_ports=()) as rules:
        rules.enforce()


def only_run(programs: Iterable[str]) -> None:
    """In a ``command`` worker: from here on, start none but these programs, by their absolute paths.

    Raises:
        Unfit: The kernel did not do it; nothing should be started then.
    """
    with Ruleset(only=EXECUTE) as rules:
        # A program with shared libraries is started by its loader.
        for path in (*programs, *(found for pattern in _LOADERS for found in glob.glob(pattern))):  # noqa: PTH207 # absolute patterns
            rules.allow_path(path, EXECUTE)
        rules.enforce()


def only_change(paths: Iterable[str]) -> None:
    """In a ``command`` worker: from here on, change these folders and files only; of a file, all of its folder.

    Whoever allows a change allows what the call names: a program that it starts must not change anything else.

    Raises:
        Unfit: The kernel did not do it; nothing should be started then.
    """
    with Ruleset(only=CHANGE & ~READ) as rules:
        for path in paths:
            folder = path if os.path.isdir(path) else path.rpartition("/")[0]  # noqa: PTH112 # text, as elsewhere here
            rules.allow_path(folder, CHANGE)
        rules.allow_path("/dev/null", WRITE_FILE)
        rules.enforce()


def lower(what: int, limit: int) -> None:
    """Set a limit of this process, soft and hard, unless a lower one is in force."""
    _, highest = resource.getrlimit(what)
    limit = limit if highest == resource.RLIM_INFINITY else min(limit, highest)
    resource.setrlimit(what, (limit, limit))


def _limit(inside: Confinement) -> None:
    # The interpreter itself adds LC_CTYPE to an empty environment.
    os.environ.clear()
    memory_bytes, open_files = _LIMITS[inside.kind]
    writes = inside.kind in {"fs_write", "command"}
    lower(resource.RLIMIT_AS, memory_bytes)
    lower(resource.RLIMIT_NOFILE, open_files)
    lower(resource.RLIMIT_FSIZE, inside.limits.write_bytes + _WRITE_MARGIN_BYTES if writes else 0)
    lower(resource.RLIMIT_CORE, 0)
    if inside.kind == "command":
        # The kernel counts all of this user's tasks; where AirLab runs as root, it does not hold root to it.
        lower(resource.RLIMIT_NPROC, _tasks_of_this_user() + _MORE_TASKS)


def _tasks_of_this_user() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid == os.getuid():
                count += len(list((process / "task").iterdir()))
    return count


def _give_up_powers(inside: Confinement, _: Ground) -> None:
    kernel.give_up_new_privileges()
    header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
    had = ctypes.create_string_buffer(24)
    kernel.call("capget", header, had)
    _, permitted, *_rest = struct.unpack("=6I", had.raw)
    left = permitted & _CAPABILITIES[inside.kind]
    kernel.call("capset", header, struct.pack("=6I", left, left, 0, 0, 0, 0))


def _confine_files(inside: Confinement, ground: Ground) -> None:
    ports = (*inside.ports, _DNS_PORT) if inside.kind == "net" else ()
    with Ruleset(tcp_ports=ports) as rules:
        grant_roots(rules, inside, ground)
        if inside.kind == "fs_read":
            for folder in zoneinfo.TZPATH:
                rules.allow_path(folder, READ)
        elif inside.kind == "net":
            for path in _RESOLVER:
                ground.note(path)
                rules.allow_path(path, READ_FILE)
        elif inside.kind == "command":
            for folder in _SYSTEM:
                rules.allow_path(folder, READ | EXECUTE)
            for path in _FOR_PROGRAMS:
                rules.allow_path(path, READ)
            rules.allow_path("/dev/null", READ_FILE | WRITE_FILE)
        rules.enforce()


def _confine_calls(inside: Confinement, _: Ground) -> None:
    seccomp.install(seccomp.filter_for(inside.kind))


def _look_back() -> None:
    """Each wall once: neither of these two is ever allowed, and both work without it."""
    with suppress(PermissionError):
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
        raise Unfit("Landlock took its rules, but does not hold them")
    with suppress(PermissionError):
        os.close(os.pidfd_open(os.getpid()))
        raise Unfit("seccomp took its filter, but does not hold it")
