"""What a worker must not be able to do, tried for real, and what it must; runs behind the wall, as a tool would.

Nothing here does harm where a wall is missing: it opens, asks and makes things in a folder of its own. Only the
kernel's refusal counts as a wall; any other failure means that the call got through to somewhere.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.tools.base import tool
from app.tools.worker import fs, kernel

_REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS}
_MPTCP, _VSOCK, _FAST_OPEN = 262, 40, 0x20000000
_PTRACE_SEIZE, _NEW_USER_SPACE = 0x4206, 0x10000000
_DESCRIPTORS = range(3, 1024)

Try = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Room:
    """The folder that the self-test made; ``inside`` is the worker's root."""

    path: Path

    @property
    def own(self) -> Path:
        """A folder that the worker may use as its kind may."""
        return self.path / "inside" / "open"

    @property
    def closed(self) -> Path:
        """A protected folder below the root."""
        return self.path / "inside" / "closed"

    @property
    def outside(self) -> Path:
        """A folder beside the root."""
        return self.path / "outside"


@tool(risk="read")
def probe(kind: str, room: str) -> dict[str, dict[str, str]]:
    """Try everything.

    kind: what the worker is.
    room: the folder of the self-test.
    """
    place = Room(Path(room))
    forbidden = {**_files(place), **_reach()}
    if kind not in {"fs_write", "command"}:
        forbidden |= _changes(place)
    if kind != "command":
        forbidden |= _programs()
    forbidden |= _connections() if kind == "net" else _sockets()
    forbidden |= _kernel()
    to_do: Mapping[str, Mapping[str, Try]] = {
        "fs_read": _to_read(place),
        "fs_write": {**_to_read(place), **_changes(place)},
        "net": _to_talk(),
        "command": {**_to_read(place), **_changes(place), "run a program": _run_program},
    }
    missing = {name: said for name, attempt in to_do[kind].items() if (said := _outcome(attempt, set())) != "worked"}
    leaks = {name: said for name, attempt in forbidden.items() if (said := _outcome(attempt, _REFUSALS))}
    return {"leaks": leaks, "missing": missing}


def _outcome(attempt: Try, refusals: set[int]) -> str:
    """Empty when it was refused; else what came of it."""
    try:
        attempt()
    except OSError as exc:
        return "" if exc.errno in refusals else f"{exc.strerror or exc}"
    except Exception as exc:  # noqa: BLE001 # whatever it was, it was no refusal
        return f"{type(exc).__name__}: {exc}"
    return "worked"


def _open(path: Path, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK, 0o600))


def _files(room: Room) -> dict[str, Try]:
    """Beyond the root, or protected below it: to read, to change, or by making a way there."""
    own, secret, kept = room.own / "file", room.outside / "secret", room.closed / "secret"
    parent = Path(f"/proc/{os.getppid()}")
    reading = (secret, kept, room.own / "link", Path("/etc/passwd"), Path("/proc/self/environ"), parent / "environ")
    writing = (secret, kept, room.outside / "new", room.closed / "new", room.own / "link", parent / "mem")
    tries: dict[str, Try] = {f"read {path}": partial(_open, path) for path in reading}
    tries |= {f"write {path}": partial(_open, path, os.O_WRONLY | os.O_CREAT) for path in writing}
    tries |= {f"list {path}": partial(_open, path, os.O_DIRECTORY) for path in (room.outside, room.closed, Path("/"))}
    return tries | {
        "empty a file outside": lambda: os.truncate(secret, 0),
        "delete a protected file": kept.unlink,
        "move a protected folder": lambda: room.closed.rename(room.own / "moved"),
        "make a symbolic link": lambda: (room.own / "new-link").symlink_to(secret),
        "make a hard link": lambda: (room.own / "hard").hardlink_to(secret),
        "make a FIFO": lambda: os.mkfifo(room.own / "fifo"),
        "make a socket file": lambda: os.mknod(room.own / "socket", stat.S_IFSOCK | 0o600),
        "make a device": lambda: os.mknod(room.own / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        "change modes": lambda: own.chmod(0o600),
        "change modes outside": lambda: secret.chmod(0o600),
        "change the owner": lambda: os.chown(own, os.getuid(), os.getgid()),
        "change times": lambda: os.utime(own),
        "set attributes": lambda: os.setxattr(own, "user.airlab", b"x"),
        "move a file out": lambda: own.rename(room.outside / "moved"),
    }


def _changes(room: Room) -> dict[str, Try]:
    """What only a worker that writes may do in its own root. Each leaves the room as it was, for the next one."""

    def write() -> None:
        made = room.own / f"made-{os.getpid()}"
        made.write_text("x")
        made.rename(room.own / f"renamed-{os.getpid()}")
        os.truncate(room.own / f"renamed-{os.getpid()}", 0)
        (room.own / f"renamed-{os.getpid()}").unlink()

    def make_folder() -> None:
        folder = room.own / f"folder-{os.getpid()}"
        folder.mkdir()
        folder.rmdir()

    return {
        "write below the root": write,
        "make a folder": make_folder,
        "empty a file": lambda: os.truncate(room.own / "empty", 0),
    }


def _reach() -> dict[str, Try]:
    """Other processes: to signal them, to read them, to become part of them."""
    parent, buffer = os.getppid(), ctypes.create_string_buffer(64)
    area = struct.pack("@PN", ctypes.addressof(buffer), 1)
    return {
        "signal the parent": lambda: os.kill(parent, 0),
        "signal a thread of the parent": lambda: kernel.call("tgkill", parent, parent, 0),
        "signal every process": lambda: os.kill(-1, 0),
        "signal the parent with input": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent),
        "hold the parent": lambda: os.close(os.pidfd_open(parent)),
        "signal what is held": lambda: signal.pidfd_send_signal(0, signal.SIGCONT),
        "trace the parent": lambda: kernel.call("ptrace", _PTRACE_SEIZE, parent, 0, 0),
        "read the parent's memory": lambda: kernel.call("process_vm_readv", parent, area, 1, area, 1, 0),
        "read the parent's limits": lambda: kernel.call("prlimit64", parent, 7, None, buffer),
        "change the parent's priority": lambda: os.setpriority(os.PRIO_PROCESS, parent, 0),
        "descriptors of others": _nothing_inherited,
    }


def _nothing_inherited() -> None:
    for descriptor in _DESCRIPTORS:
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError:
            continue
        return
    raise PermissionError(errno.EPERM, "none is there")


def _kernel() -> dict[str, Try]:
    """Parts of the kernel that no tool needs, and that other sandboxes were left by."""
    return {
        "io_uring": partial(kernel.call, "io_uring_setup", 1, ctypes.create_string_buffer(120)),
        "bpf": partial(kernel.call, "bpf", 0, None, 0),
        "userfaultfd": partial(kernel.call, "userfaultfd", 1),
        "perf events": partial(kernel.call, "perf_event_open", None, 0, -1, -1, 0),
        "keys": partial(kernel.call, "keyctl", 0, -3, 0),
        "files in memory": lambda: os.close(os.memfd_create("probe")),
        "mount": partial(kernel.call, "mount", b"none", b"/nowhere", b"tmpfs", 0, None),
        "open a mount": partial(kernel.call, "fsopen", b"tmpfs", 0),
        "join a namespace": partial(kernel.call, "setns", -1, 0),
        "chroot": lambda: os.chroot("/"),
        "open by handle": partial(kernel.call, "open_by_handle_at", -1, b"\0" * 16, 0),
        "watch files": partial(kernel.call, "inotify_init1", 0),
        "shared memory": partial(kernel.call, "shmctl", -1, 0, None),
        "change the user": lambda: os.setuid(os.getuid()),
        "personality": partial(kernel.call, "personality", 0xFFFFFFFF),
        # The last one: where it works, this process is somebody else afterwards.
        "namespaces": partial(kernel.call, "unshare", _NEW_USER_SPACE),
    }


def _programs() -> dict[str, Try]:
    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    return {
        "fork": fork,
        "start a program": partial(kernel.call, "execve", b"/nowhere", None, None),
        "start a program by descriptor": partial(kernel.call, "execveat", -1, b"", None, None, 0x1000),
        "new machine code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close(),
    }


def _socket(family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> Try:
    return lambda: socket.socket(family, kind, protocol).close()


_NEVER_SOCKETS: dict[str, Try] = {
    "a unix socket": _socket(socket.AF_UNIX),
    "Multipath TCP": _socket(socket.AF_INET, protocol=_MPTCP),
    "raw packets": _socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "SCTP": _socket(socket.AF_INET, socket.SOCK_SEQPACKET, 132),
    "netlink": _socket(16, socket.SOCK_RAW),
    "ethernet": _socket(17, socket.SOCK_RAW),
    "the hypervisor": _socket(_VSOCK),
    "kernel crypto": _socket(38, socket.SOCK_SEQPACKET),
    "a socket pair": lambda: list(map(socket.socket.close, socket.socketpair())),
}


def _sockets() -> dict[str, Try]:
    """All of them."""
    return {
        **_NEVER_SOCKETS,
        "TCP": _socket(socket.AF_INET),
        "TCP over IPv6": _socket(socket.AF_INET6),
        "UDP": _socket(socket.AF_INET, socket.SOCK_DGRAM),
    }


def _connections() -> dict[str, Try]:
    """What a worker with a network may still not do with it."""

    def with_socket(kind: int, use: Callable[[socket.socket], object]) -> Try:
        def attempt() -> None:
            with socket.socket(socket.AF_INET, kind) as made:
                use(made)

        return attempt

    here = ("127.0.0.1", 0)
    discard = ("127.0.0.1", 9)
    return {
        **_NEVER_SOCKETS,
        "bind": with_socket(socket.SOCK_STREAM, lambda made: made.bind(here)),
        "listen": with_socket(socket.SOCK_STREAM, socket.socket.listen),
        "UDP without connect": with_socket(socket.SOCK_DGRAM, lambda made: made.sendto(b"", discard)),
        "TCP Fast Open": with_socket(socket.SOCK_STREAM, lambda made: made.sendto(b"x", _FAST_OPEN, discard)),
        "a message with an address": with_socket(socket.SOCK_DGRAM, lambda made: made.sendmsg([b""], [], 0, discard)),
    }


def _to_read(room: Room) -> dict[str, Try]:
    def where_am_i() -> None:
        folder = os.open(room.own, os.O_RDONLY | os.O_DIRECTORY)
        try:
            Path(f"/proc/self/fd/{folder}").readlink()
        finally:
            os.close(folder)

    def confined_opening() -> None:
        why = fs.why_unfit()
        if why is not None:
            raise OSError(errno.ENOSYS, why)

    return {
        "read below the root": (room.own / "file").read_bytes,
        "list below the root": lambda: list(room.own.iterdir()),
        "see where a descriptor leads": where_am_i,
        "open beneath a folder": confined_opening,
    }


def _to_talk() -> dict[str, Try]:
    def datagram() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.connect(("127.0.0.1", 53))

    return {
        "TCP": _socket(socket.AF_INET),
        "UDP to a resolver": datagram,
        "names of this machine": lambda: socket.getaddrinfo("127.0.0.1", 80),
    }


def _run_program() -> None:
    program = shutil.which("true", path="/usr/bin:/bin")
    if program is not None:
        subprocess.run([program], check=True, stdin=subprocess.DEVNULL, capture_output=True)
