"""Takes llama-server's place in a container and tries what must not be possible there; its log says what was.

Each attempt is a line of JSON: its name and its error, null where it worked. Standard library only.
"""

import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path


def connect(address: tuple[str, int]) -> None:
    """Reach somebody over the network."""
    with socket.create_connection(address, timeout=2):
        pass


def resolve() -> None:
    """Ask a name server."""
    socket.getaddrinfo("example.org", 443)


def write(path: str) -> None:
    """Write a file."""
    Path(path).write_text("x")


def run_from(path: str) -> None:
    """Start a program that was written a moment ago."""
    Path(path).write_text("#!/bin/sh\n")
    Path(path).chmod(0o755)
    os.spawnv(os.P_WAIT, path, [path]) == 0 or fail(errno.EACCES)


def other_socket() -> None:
    """Find a socket that is not our own."""
    found = [str(path) for folder in ("/s", "/run", "/var/run", "/tmp", "/m") for path in Path(folder).rglob("*.sock")]
    found or fail(errno.ENOENT)


def mount() -> None:
    """Mount something."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 or fail(ctypes.get_errno())


def raw_socket() -> None:
    """Make packets by hand."""
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


def become_root() -> None:
    """Take another user's place."""
    os.setuid(0)


def many_processes() -> None:
    """Start more than may be."""
    children = []
    try:
        for _ in range(600):
            pid = os.fork()
            if pid == 0:
                os.pause() if hasattr(os, "pause") else __import__("time").sleep(60)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def fail(number: int) -> bool:
    """Raise this error."""
    raise OSError(number, os.strerror(number))


def interfaces() -> None:
    """Find a network interface beside loopback."""
    [name for _, name in socket.if_nameindex() if name != "lo"] or fail(errno.ENODEV)


MODEL = sys.argv[sys.argv.index("--model") + 1]
ATTEMPTS: dict[str, Callable[[], object]] = {
    "egress": lambda: connect(("1.1.1.1", 443)),
    "host gateway": lambda: connect(("172.17.0.1", 22)),
    "name server": resolve,
    "interface": interfaces,
    "another socket": other_socket,
    "docker": lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"),
    "write /": lambda: write("/x"),
    "write /etc": lambda: write("/etc/x"),
    "write the model": lambda: write(MODEL),
    "write beside the model": lambda: write("/m/0/x"),
    "run from /tmp": lambda: run_from("/tmp/x"),
    "mount": mount,
    "raw socket": raw_socket,
    "become root": become_root,
    "600 processes": many_processes,
    "raise the limit of files": lambda: __import__("resource").setrlimit(7, (1 << 20, 1 << 20)),
    "read the host's memory": lambda: Path("/dev/mem").read_bytes(),
    "write where the image has a volume": lambda: write("/state/x"),
    "change the kernel": lambda: write("/proc/sys/kernel/core_pattern"),
}
ALLOWED: dict[str, Callable[[], object]] = {
    "write /tmp": lambda: write("/tmp/y"),
    "write its folder": lambda: write("/s/y"),
    "read the model": lambda: Path(MODEL).read_bytes(),
}

for name, attempt in (ATTEMPTS | ALLOWED).items():
    try:
        attempt()
        error = None
    except (OSError, ValueError) as exc:
        error = errno.errorcode.get(getattr(exc, "errno", None) or 0, str(exc))
    print(json.dumps([name, name in ALLOWED, error]), flush=True)
status = Path("/proc/self/status").read_text()
facts = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
print(json.dumps(["facts", facts["CapEff"], facts["CapBnd"], facts["NoNewPrivs"], facts["Seccomp"], os.getuid()]))
