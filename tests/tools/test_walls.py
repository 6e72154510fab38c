"""The walls, tried for real: as whoever runs the tests and as an ordinary user, and on kernels that lack a part."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from app.tools.base import Confinement
from app.tools.toolbox import Toolbox
from app.tools.walls import KINDS, PROBE, confinement_in, make_room
from app.tools.workers import Worker
from tests.tools.elsewhere import ROOT, as_ordinary_user, elsewhere

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these walls")

USERS = ["itself", "ordinary"]
HERE = Path(__file__).parent
NO_LANDLOCK = "this kernel has no Landlock, or what AirLab runs in hides it (Linux 6.2 or newer has it)"
NO_SECCOMP = "the kernel takes no filter of system calls (seccomp): Function not implemented"
NO_OPENAT2 = "file tools need the system call openat2 (Linux 5.6 or newer, not filtered) and /proc"

ANYBODY = {
    *("read ROOM/outside/secret", "read ROOM/inside/open/link", "read ROOM/inside/closed/secret", "list /"),
    *("write ROOM/outside/secret", "write ROOM/inside/open/link", "empty a file outside", "move a file out"),
    *("make a symbolic link", "make a hard link", "make a FIFO", "make a socket file", "change modes", "change times"),
    *("delete a protected file", "move a protected folder", "read /etc/passwd", "read /proc/self/environ"),
    *("fork", "start a program", "new machine code", "files in memory", "watch files", "hold the parent"),
    *("TCP", "UDP", "a unix socket", "netlink", "a socket pair", "signal the parent with input"),
}
"""What anybody can do on any kernel that nothing confines."""


def ran_as(user: str, said: dict[str, Any]) -> bool:
    """The second run means something only if it really was somebody else."""
    return bool(said["user"] != 0 if user == "ordinary" else said["user"] == os.getuid())


@pytest.mark.parametrize("user", USERS)
def test_every_wall_holds(user: str) -> None:
    """Each thing that must not work is refused by the kernel, and each thing that tools need works; as root, too."""
    said = elsewhere("walls", ordinary=user == "ordinary")

    assert said["enforced"] == dict.fromkeys(KINDS)
    assert ran_as(user, said)


@pytest.mark.parametrize("user", USERS)
def test_without_a_wall_the_self_test_finds_that_everything_works(user: str) -> None:
    """A canary that cannot sing proves nothing."""
    said = elsewhere("without_wall", ordinary=user == "ordinary")

    assert said["leaks"].keys() >= ANYBODY
    assert said["missing"] == {}
    assert ran_as(user, said)


def test_self_test_finds_either_half_of_the_wall_missing() -> None:
    """Neither does the work of the other alone."""
    without_seccomp, without_landlock = elsewhere("behind_landlock_only"), elsewhere("behind_seccomp_only")

    assert without_seccomp["leaks"].keys() >= {"TCP", "a unix socket", "change modes", "fork", "start a program"}
    assert without_landlock["leaks"].keys() >= {"read ROOM/outside/secret", "read /etc/passwd", "list /"}


def test_tools_run_for_an_ordinary_user_too() -> None:
    """Rights that root has would hide what an ordinary user lacks."""
    if os.getuid():
        pytest.skip("these tests run as an ordinary user already")
    tests = [
        str(HERE / "test_toolbox.py"),
        str(HERE / "worker" / "test_grants.py"),
        str(HERE / "test_private_names.py"),
        "-k",
        "builtin or write or fault or killed or nothing or root or private",
    ]
    pytest_itself = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    with tempfile.TemporaryDirectory() as folder, as_ordinary_user([*pytest_itself, "--basetemp", f"{folder}/t"]) as it:
        Path(folder).chmod(0o777)
        done = subprocess.run(it, cwd=ROOT, capture_output=True, check=False, timeout=300)

    assert done.returncode == 0, done.stdout.decode()


def test_oldest_landlock_that_is_accepted_holds_as_well() -> None:
    """What it does not see, seccomp closes. The process of this test has more descriptors open than a worker."""
    said = elsewhere("behind_older_landlock")

    assert said["leaks"].keys() <= {"descriptors of others"}
    assert said["missing"] == {}


@pytest.mark.parametrize("user", USERS)
def test_fault_091_kernel_without_landlock_offers_no_tools_unless_somebody_accepts_that(user: str) -> None:
    """Never silently: with policy.sandbox: required nothing runs; with degraded only what reads, and it is said."""
    said = elsewhere("no_landlock", ordinary=user == "ordinary")

    assert set(said["enforced"].values()) == {NO_LANDLOCK}
    assert said["why_not"] == [NO_LANDLOCK, None]
    tried = ("read", "read outside", "write", "write by reading")
    nothing = dict.fromkeys(tried, "tools_unavailable")
    assert said["required"] == nothing | {"files": "a.txt"}
    assert said["degraded"]["read"] == '{"content": "hello", "lines": 1}'
    assert said["degraded"]["read outside"] == "denied"
    assert said["degraded"]["write"] == "tools_unavailable"
    assert said["degraded"]["write by reading"] == "tool_failed"
    assert {name: said["again"][name] for name in tried} == nothing
    assert said["facts"].count("ToolsUnavailable") == len(KINDS)
    assert "ToolsUnconfined" in said["facts"]


def test_kernel_without_openat2_has_no_file_tools_at_all() -> None:
    """Then there is no second wall in user space either, so degraded changes nothing."""
    said = elsewhere("no_openat2")

    assert said["enforced"]["fs_read"].startswith(NO_OPENAT2)
    assert all(why.startswith(NO_OPENAT2) for why in said["why_not"])
    assert said["degraded"] == said["required"]


def test_kernel_without_seccomp_confines_nothing() -> None:
    said = elsewhere("no_seccomp")

    assert set(said["enforced"].values()) == {NO_SECCOMP}
    assert said["required"]["read"] == "tools_unavailable"
    assert said["degraded"]["read"] == '{"content": "hello", "lines": 1}'


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_is_tested_with_a_wall_of_its_kind(toolbox: Toolbox, kind: Any) -> None:
    """Told that it is another kind, the self-test finds that it cannot do what that one needs."""
    room = make_room()
    try:
        worker = await toolbox._nursery.worker(confinement_in(room, kind))
        as_if = "net" if kind != "net" else "fs_write"
        found = await probed(worker, as_if, room)
    finally:
        shutil.rmtree(room)

    assert found["missing"], f"a {kind} worker can do what only a {as_if} worker needs"


async def probed(worker: Worker, kind: str, room: Path) -> dict[str, dict[str, str]]:
    try:
        request = {"entry": PROBE, "arguments": {"kind": kind, "room": str(room)}, "limit_s": 10, "may_destroy": False}
        said = (await worker.ask(request))["result"]
    finally:
        await worker.end()
    assert isinstance(said, dict)
    return said


async def test_leak_disables_its_kind_and_is_named(toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a worker of a kind got at, no tool of that kind is offered."""

    def open_wide(room: Path, kind: Any) -> Confinement:
        confinement = confinement_in(room, kind)
        whole = (confinement.read or confinement.write)[0].parent if kind != "net" else None
        return Confinement(kind, read=(whole,)) if kind == "fs_read" and whole else confinement

    monkeypatch.setattr("app.tools.walls.confinement_in", open_wide)
    enforced = await toolbox.check()

    why = enforced["fs_read"] or ""
    assert re.match(
        r"the self-test of fs_read workers found what the wall lets through: read /\S+/secret \(worked\)", why
    )
    assert enforced["fs_write"] is None
    assert toolbox.why_not(Confinement("fs_read")) == why


async def test_self_test_that_breaks_off_disables_its_kind(toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.tools.walls.PROBE", "tests.tools.canaries:crash_when_probed")
    enforced = await toolbox.check()

    assert set(enforced.values()) != {None}
    assert all("broke off" in (why or "") for why in enforced.values())
