"""What needs mounts or a resolver of its own: run in namespaces, where even an ordinary user may make them.

``in_namespaces("name", folder)`` runs the function of that name in a process whose mounts and network nobody else sees,
and which are gone with it; what the function returns comes back.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from app.tools.base import Confinement, ToolProblem
from app.tools.builtin.calculate_directory_size import calculate_directory_size
from app.tools.builtin.copy_file import copy_file
from app.tools.builtin.create_directory import create_directory
from app.tools.builtin.delete_file import delete_file
from app.tools.builtin.lookup_hostname import lookup_hostname
from app.tools.builtin.move_file import move_file
from app.tools.builtin.search_files import search_files
from app.tools.builtin.write_file import write_file
from app.tools.worker import net

_BOUND_S = 60
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--net")


def in_namespaces(name: str, folder: Path) -> Any:
    """What a function of this module returns there; skips the test where the system allows no namespaces."""
    allowed = subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False, timeout=_BOUND_S)
    if allowed.returncode:
        pytest.skip(f"no user namespaces here: {allowed.stderr.decode().strip()}")
    command = [*_UNSHARE, sys.executable, "-m", "tests.tools.mounted", name, str(folder)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=_BOUND_S)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _said(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ToolProblem as problem:
        return problem.code


def _inside(root: Path) -> Confinement:
    path = PurePosixPath(root)
    return Confinement("fs_write", read=(path,), write=(path,), may_destroy=True)


def full_disk(root: Path) -> Any:
    """Write, overwrite and copy where there is no room; then what is there."""
    _mount("-t", "tmpfs", "-o", "size=64k", "none", root)
    inside = _inside(root)
    write_file(f"{root}/old.txt", "x" * 40_000, inside=inside)
    said = [
        _said(lambda: write_file(f"{root}/new.txt", "y" * 60_000, inside=inside)),
        _said(lambda: write_file(f"{root}/old.txt", "y" * 60_000, inside=inside)),
        _said(lambda: copy_file(f"{root}/old.txt", f"{root}/copy.txt", inside=inside)),
    ]
    return {
        "said": said,
        "names": sorted(path.name for path in root.iterdir()),
        "old": (root / "old.txt").stat().st_size,
    }


def read_only(root: Path) -> Any:
    """Every change on a file system that takes none."""
    _mount("-t", "tmpfs", "none", root)
    (root / "a.txt").write_text("a")
    _mount("-o", "remount,bind,ro", root)
    inside = _inside(root)
    return [
        _said(lambda: write_file(f"{root}/a.txt", "x", inside=inside)),
        _said(lambda: write_file(f"{root}/b.txt", "x", inside=inside)),
        _said(lambda: copy_file(f"{root}/a.txt", f"{root}/b.txt", inside=inside)),
        _said(lambda: move_file(f"{root}/a.txt", f"{root}/b.txt", inside=inside)),
        _said(lambda: delete_file(f"{root}/a.txt", inside=inside)),
        _said(lambda: create_directory(f"{root}/b", inside=inside)),
    ]


def mount_points(root: Path) -> Any:
    """Delete and move mount points, and what holds them; then what is left."""
    for name in ("tmp", "bind", "holder/bind"):
        (root / name).mkdir(parents=True)
    (root / "holder" / "a.txt").touch()
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "kept.txt").touch()
    _mount("-t", "tmpfs", "none", root / "tmp")
    _mount("--bind", outside, root / "bind")
    _mount("--bind", outside, root / "holder" / "bind")
    inside = _inside(root)
    said = [
        _said(lambda path=path, recursive=recursive: delete_file(path, recursive=recursive, inside=inside))  # type: ignore[misc] # bound now
        for path in (f"{root}/tmp", f"{root}/bind", f"{root}/holder")
        for recursive in (False, True)
    ]
    said += [_said(lambda: move_file(f"{root}/bind", f"{root}/moved", inside=inside))]
    said += [_said(lambda: move_file(f"{root}/holder/a.txt", f"{root}/tmp/a.txt", inside=inside))]
    return {"said": said, "kept": sorted(str(path.relative_to(root.parent)) for path in root.parent.rglob("*"))}


def bind_loop(root: Path) -> Any:
    """Count and search a folder that is mounted again below itself."""
    (root / "deep" / "loop").mkdir(parents=True)
    (root / "a.txt").write_text("x" * 1000)
    _mount("--bind", root, root / "deep" / "loop")
    inside = _inside(root)
    return [
        calculate_directory_size(str(root), inside=inside),
        search_files(str(root), "*.txt", inside=inside),
    ]


def resolver(folder: Path) -> Any:
    """Look names up at a DNS server that misbehaves."""
    _loopback_up()
    resolv = folder / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n")
    _mount("--bind", resolv, "/etc/resolv.conf")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    threading.Thread(target=_misanswer, args=(server,), daemon=True).start()
    net._TIMEOUT_S = 3.0  # not less: a busy machine's own answers come in their time, too
    inside = Confinement("net")
    names = ("silent.example", "nowhere.example", "circle.example", "broken.example")
    said = {name: _said(lambda name=name: lookup_hostname(name, inside=inside)) for name in names}  # type: ignore[misc] # bound now
    many = net.resolve("many.example")
    return {**said, "many.example": len(many), "two-faced.example": lookup_hostname("two-faced.example", inside=inside)}


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x1))  # SIOCSIFFLAGS, IFF_UP


def _misanswer(server: socket.socket) -> None:
    while True:
        question, client = server.recvfrom(4096)
        answer = _answer_to(question)
        if answer is not None:
            server.sendto(answer, client)


def _answer_to(question: bytes) -> bytes | None:
    name = question[13 : 13 + question[12]].decode()
    end = question.index(b"\0", 12) + 5
    asked = question[12:end]
    wants_v4 = asked[-4:-2] == b"\0\1"
    to_itself = b"\xc0\x0c\0\5\0\1\0\0\0\0\0\2\xc0\x0c"
    addresses: dict[str, list[str]] = {
        "many": [f"1.1.{number // 250}.{number % 250}" for number in range(300)],
        "two-faced": ["1.1.1.1", "192.168.0.1"],
    }
    records = [
        b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in addresses.get(name, []) if wants_v4
    ]
    if name == "circle":
        records = [to_itself]
    code = {"nowhere": 3, "broken": 2}.get(name, 0)
    if name == "silent":
        return None
    header = question[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
    return header + asked + b"".join(records)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]))))
