"""What is tried in a process of its own, since it changes that for good: ``python -m tests.tools.elsewhere NAME``.

``elsewhere("name")`` runs the function of that name there; what it returns comes back. ``as_ordinary_user(*command)``
gives up root for good in between, where the tests run as root.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.errors import ToolError
from app.journal import Fact
from app.tools.selftest.probes import probe
from app.tools.toolbox import Toolbox
from app.tools.walls import confinement_in, make_room
from app.tools.worker import kernel, landlock, lockdown, seccomp
from app.tools.worker.grants import Ground, grant_roots
from app.tools.worker.landlock import Ruleset
from tests.tools.shed import BOUND_S, CANARIES, SPECS, run, toolbox_noting, within

ROOT = Path(__file__).resolve().parents[2]
_NOBODY = 65534
_BOUND_S = 120


def elsewhere(name: str, *, ordinary: bool = False) -> Any:
    """What a function of this module returns, run in another process."""
    command = [sys.executable, "-m", "tests.tools.elsewhere", name]
    with as_ordinary_user(command) if ordinary else as_it_is(command) as wrapped:
        done = subprocess.run(wrapped, cwd=ROOT, capture_output=True, check=False, timeout=_BOUND_S)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def as_it_is(command: Sequence[str]) -> Iterator[list[str]]:
    """The command, run by whoever runs the tests."""
    yield list(command)


@contextmanager
def as_ordinary_user(command: Sequence[str]) -> Iterator[list[str]]:
    """The command as a user without any rights would run it; as it is where the tests do not run as root.

    An interpreter in a folder of root's own is shown to that user under its own name, in a mount namespace.
    """
    if os.getuid():
        yield list(command)
        return
    drop = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--inh-caps=-all", "env", "-i"]
    drop += ["PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"]
    prefix = Path(sys.base_prefix)
    hidden = [folder for folder in reversed(prefix.parents) if not folder.stat().st_mode & 0o001]
    if not hidden:
        yield [*drop, *command]
        return
    with tempfile.TemporaryDirectory() as folder:
        script = (
            'mount --bind "$1" "$2" && mount -t tmpfs -o mode=755 none "$3" && mkdir -p "$1" && '
            'mount --bind "$2" "$1" && shift 3 && exec "$@"'
        )
        shown = ["unshare", "--mount", "sh", "-c", script, "sh", str(prefix), folder, str(hidden[0])]
        allowed = subprocess.run([*shown, *drop, sys.executable, "-c", ""], capture_output=True, check=False)
        if allowed.returncode:
            pytest.skip(f"no ordinary user can be made here: {allowed.stderr.decode().strip()}")
        yield [*shown, *drop, *command]


def hide(*calls: int) -> None:
    """From now on the kernel of this process and its children knows these system calls no more."""
    load, equal, answer = 0x20, 0x15, 0x06
    code = [struct.pack("=HBBI", load, 0, 0, 0)]
    for number in calls:
        code += [struct.pack("=HBBI", equal, 0, 1, number), struct.pack("=HBBI", answer, 0, 0, 0x00050000 | 38)]
    kernel.give_up_new_privileges()
    seccomp.install(b"".join([*code, struct.pack("=HBBI", answer, 0, 0, 0x7FFF0000)]))


# Run there.


def walls() -> Any:
    """Who this is, and what is enforced."""

    async def look(toolbox: Toolbox, _: list[Fact]) -> Any:
        return {"user": os.getuid(), "enforced": dict(await toolbox.check())}

    return _with_toolbox(look)


def without_wall() -> Any:
    """What the self-test finds where nothing confines it."""
    return _probed(lambda room: None)


def behind_landlock_only() -> Any:
    """What it finds where system calls are not filtered."""

    def confine(room: Path) -> None:
        kernel.give_up_new_privileges()
        with Ruleset(tcp_ports=()) as rules:
            grant_roots(rules, confinement_in(room, "fs_read"), Ground())
            rules.enforce()

    return _probed(confine)


def behind_seccomp_only() -> Any:
    """What it finds where files are not confined."""

    def confine(room: Path) -> None:
        kernel.give_up_new_privileges()
        seccomp.install(seccomp.filter_for("fs_read"))

    return _probed(confine)


def behind_older_landlock() -> Any:
    """What it finds on a kernel whose Landlock knows neither ports nor signals."""
    landlock.version = lambda: landlock.LEAST_VERSION
    return _probed(lambda room: lockdown.lock_down(confinement_in(room, "fs_read")))


def _probed(confine: Callable[[Path], object]) -> Any:
    room = make_room()
    watched = subprocess.Popen(["sh", "-c", 'read -r _; rm -r "$1"', "sh", str(room)], stdin=subprocess.PIPE)
    assert watched.stdin is not None
    user = os.getuid()
    try:
        confine(room)
        found = probe(kind="fs_read", room=str(room))
        leaks = {name.replace(str(room), "ROOM"): said for name, said in found["leaks"].items()}
        return {"user": user, "leaks": leaks, "missing": found["missing"]}
    finally:
        # Not by us: we may not be able to any more.
        watched.stdin.close()


def no_landlock() -> Any:
    """Tools on a kernel without Landlock, before and after somebody accepts that."""
    hide(444)
    return _with_toolbox(_required_then_degraded)


def no_openat2() -> Any:
    """The same on a kernel that cannot open beneath a folder either."""
    hide(437, 444)
    return _with_toolbox(_required_then_degraded)


def no_seccomp() -> Any:
    """The same on a kernel that filters no system calls."""
    hide(kernel.number("seccomp") or 0)
    return _with_toolbox(_required_then_degraded)


async def _required_then_degraded(toolbox: Toolbox, facts: list[Fact]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.txt")
        file.write_text("hello")  # noqa: ASYNC240 # nothing else runs yet
        reading, writing = within("fs_read", folder), within("fs_write", folder)

        def files() -> str:
            return ", ".join(sorted(path.name for path in Path(folder).iterdir()))

        async def said() -> dict[str, str]:
            return {
                "read": await _outcome(toolbox, "read_file", reading, path=str(file)),
                "read outside": await _outcome(toolbox, "read_file", reading, path="/etc/passwd"),
                "write": await _outcome(toolbox, "write_file", writing, path=f"{folder}/b.txt", lines=["x"]),
                "write by reading": await _outcome(toolbox, "write", reading, path=f"{folder}/c.txt"),
                "files": files(),
            }

        toolbox.keep([reading, writing])
        await toolbox.ready()
        required, why_not = await said(), toolbox.why_not(reading)
        toolbox.keep([reading, writing], degraded=True)
        await toolbox.ready()
        degraded, why_not_degraded = await said(), toolbox.why_not(reading)
        toolbox.keep([reading, writing])
        again = await said()
    return {
        "enforced": dict(toolbox.enforced()),
        "why_not": [why_not, why_not_degraded],
        "required": required,
        "degraded": degraded,
        "again": again,
        "facts": [type(fact).__name__ for fact in facts],
    }


async def _outcome(toolbox: Toolbox, name: str, inside: Any, **arguments: object) -> str:
    try:
        return json.dumps(await run(toolbox, SPECS.get(name) or CANARIES[name], inside, **arguments))
    except ToolError as exc:
        return exc.code


def _with_toolbox(use: Any) -> Any:
    async def main() -> Any:
        facts: list[Fact] = []
        async with asyncio.timeout(BOUND_S), toolbox_noting(facts.append) as toolbox:
            return await use(toolbox, facts)

    return asyncio.run(main())


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
