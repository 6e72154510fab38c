"""Tools that misbehave, or that tell what their worker can see. Only tests offer them."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from app.tools.base import AbsolutePath, Confinement, ToolProblem, tool
from app.tools.builtin.read_file import read_file
from app.tools.worker import lockdown, net


@tool(risk="read")
def spin() -> None:
    """Never come back."""
    while True:
        pass


@tool(risk="read")
def crash() -> None:
    """Read address zero."""
    ctypes.string_at(0)


@tool(risk="read")
def crash_when_probed(kind: str, room: str) -> None:
    """Crash in place of a self-test. kind: ignored. room: ignored."""
    ctypes.string_at(0)


@tool(risk="read")
def abort() -> None:
    """Give up in C."""
    os.abort()


@tool(risk="read")
def fork_without_end() -> int:
    """Start processes for as long as that works."""
    while os.fork() == 0:
        pass
    return 1


@tool(risk="read")
def allocate() -> int:
    """Ask for 1 GiB."""
    return len(bytearray(1024**3))


@tool(risk="read")
def open_many() -> int:
    """Open 100 descriptors."""
    return len([os.open("/", os.O_PATH) for _ in range(100)])


@tool(risk="read")
def write(path: str) -> str:
    """Write a byte. path: where."""
    return str(Path(path).write_text("x"))


@tool(risk="write")
def write_much(path: str) -> int:
    """Write 1 MiB. path: where."""
    return Path(path).write_bytes(bytes(1024**2))


@tool(risk="read")
def shout() -> str:
    """Answer more than an answer may hold."""
    return "x" * 1024**2


@tool(risk="read")
def half_a_character() -> str:
    """Answer with what UTF-8 cannot say."""
    return "\ud800"


@tool(risk="read")
def forge() -> None:
    """Write what is no answer, and leave."""
    os.write(0, b"no json\n")
    os._exit(0)


@tool(risk="read")
def look_around() -> dict[str, object]:
    """Tell what this process was given."""
    return {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "descriptors": [number for number in range(1024) if _is_open(number)],
        "third_party": sorted({name.partition(".")[0] for name in sys.modules} & {"pydantic", "litestar", "psutil"}),
        "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "flags": [sys.flags.isolated, sys.flags.no_site],
    }


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@tool(risk="write")
def attempt(action: str, path: str) -> str:
    """Do one thing with the file system, and tell how it went.

    action: what.
    path: where.
    """
    try:
        _ACTIONS[action](Path(path))
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc))
    return "done"


_ACTIONS: dict[str, Callable[[Path], object]] = {
    "read": Path.read_bytes,
    "list": lambda path: list(path.iterdir()),
    "write": lambda path: path.write_text("changed"),
    "delete": Path.unlink,
    "make folder": Path.mkdir,
    "remove folder": Path.rmdir,
    "rename": lambda path: path.rename(path.with_name(path.name + "-renamed")),
    "move up": lambda path: path.rename(path.parent.parent / path.name),
}


@tool(risk="command")
def run_only(program: str, other: str) -> list[str]:
    """Allow one program, then start it and another.

    program: the one that may run.
    other: the one that may not.
    """
    lockdown.only_run([program])
    said = []
    for path in (program, other):
        try:
            done = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, check=False)
            said.append(str(done.returncode))
        except OSError as exc:
            said.append(errno.errorcode.get(exc.errno or 0, str(exc)))
    return said


@tool(risk="net")
def connect(port: int) -> str:
    """Connect to this machine, then close the network, and tell how each went. port: where to."""
    try:
        plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc))
    with plain:
        lockdown.close_network()
        plain.sendall(b"hello")
        said = [plain.recv(16).decode()]
        for another in (
            lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close(),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
            lambda: Path("/etc/hosts").read_bytes(),
            lambda: plain.sendto(b"x", 0x20000000, ("127.0.0.1", port)),
        ):
            try:
                another()
                said.append("done")
            except OSError as exc:
                said.append(errno.errorcode.get(exc.errno or 0, str(exc)))
    return " ".join(said)


@tool(risk="net")
def resolve(name: str) -> list[str]:
    """Look a name up. name: whose."""
    return [str(address) for address in net.resolve(name)]


@tool(risk="read")
def not_a_number() -> float:
    """Answer with what JSON cannot say."""
    return float("nan")


@tool(risk="read")
def fail() -> None:
    """Fail in a way that it does not know of."""
    raise KeyError("unforeseen")


@tool(risk="read")
def nest() -> None:
    """Answer with more brackets than anybody reads, and leave."""
    os.write(0, b"[" * 100_000 + b"\n")
    os._exit(0)


@tool(risk="read")
def may_destroy(*, inside: Confinement) -> bool:
    """Tell what this call may."""
    return inside.may_destroy


@tool(risk="read")
def read_many(path: AbsolutePath, times: int, *, inside: Confinement) -> dict[str, int]:
    """Read one file many times. path: the file. times: how often."""
    seen: dict[str, int] = {}
    for _ in range(times):
        try:
            said = str(read_file(path, inside=inside)["content"])
        except ToolProblem as problem:
            said = problem.code
        seen[said] = seen.get(said, 0) + 1
    return seen


@tool(risk="command")
def run_shell(text: str) -> dict[str, object]:
    """Run a shell. text: what it is to do."""
    done = subprocess.run(["/bin/sh", "-c", text], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return {"code": done.returncode, "said": (done.stdout + done.stderr).decode(errors="replace")}
