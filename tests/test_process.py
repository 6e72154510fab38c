"""Children that cannot outlive us, with real processes: what they say, how they end, what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from app.errors import EngineError
from app.process import Child, LogTail, end_leftovers

BOUND_S = 20.0
NOTHING = {"PATH": os.environ["PATH"]}
_PR_SET_CHILD_SUBREAPER = 36
Begin = Callable[..., "asyncio.Future[Child]"]


@pytest.fixture
async def spawned(tmp_path: Path) -> AsyncIterator[Begin]:
    """Starts ``python -c CODE ARGS``; whatever it started is gone when the test ends."""
    children: list[Child] = []

    async def begin(code: str, *arguments: str) -> Child:
        argv = (sys.executable, "-I", "-S", "-c", code, *arguments)
        child = await Child.spawn(argv, environment=NOTHING, cwd=tmp_path)
        children.append(child)
        return child

    yield lambda *given: asyncio.ensure_future(begin(*given))
    for child in children:
        assert await child.stop(grace_s=0)


async def said(child: Child, text: str) -> str:
    """The line of the child's log that begins with ``text``."""
    async with asyncio.timeout(BOUND_S):
        while True:
            for line in child.log.lines:
                if line.startswith(text):
                    return line
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(BOUND_S):
        while lives(pid):  # noqa: ASYNC110 # the process is not ours to wait for
            await asyncio.sleep(0.01)


SLEEP = "import time; print('up', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


async def test_both_outputs_and_the_exit_code_are_kept(spawned: Begin) -> None:
    code = "import os, sys; print('out', flush=True); print('no end', end='', file=sys.stderr); sys.exit(3)"
    child = await spawned(code)
    async with asyncio.timeout(BOUND_S):
        assert await child.exited() == 3
    assert list(child.log.lines) == ["out", "no end"]
    assert not child.running
    assert child.activity() is None


async def test_child_gets_this_environment_and_nothing_else(tmp_path: Path) -> None:
    code = "import os; print(sorted(k for k in os.environ if k != 'LC_CTYPE'), os.getcwd())"
    argv = (sys.executable, "-I", "-S", "-c", code)
    child = await Child.spawn(argv, environment={"A": "1"}, cwd=tmp_path)
    assert await child.exited() == 0
    assert list(child.log.lines) == [f"['A'] {tmp_path}"]


async def test_log_cannot_fill_our_memory() -> None:
    tail = LogTail()
    for _ in range(100):
        tail.data_received(b"x" * 65536)
    assert len(tail._rest) <= 2048
    tail.data_received(b"\n" + b"line\n" * 1000)
    assert len(tail.lines) == 200
    assert max(map(len, tail.lines)) <= 2048


async def test_program_that_is_not_there_says_so_and_exits_127(tmp_path: Path) -> None:
    child = await Child.spawn(("/no/such/program",), environment=NOTHING, cwd=tmp_path)
    assert await child.exited() == 127
    assert list(child.log.lines) == ["tether: cannot run /no/such/program: No such file or directory"]


async def test_folder_that_is_not_there_is_an_engine_error_and_leaks_nothing(tmp_path: Path) -> None:
    before = psutil.Process().num_fds()
    with pytest.raises(EngineError, match="cannot start true"):
        await Child.spawn(("true",), environment=NOTHING, cwd=tmp_path / "missing")
    assert psutil.Process().num_fds() <= before, "threads that other tests left may close theirs meanwhile"


async def test_no_free_file_descriptor_is_an_engine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(EngineError, match="Too many open files"):
        await Child.spawn(("true",), environment=NOTHING, cwd=tmp_path)


def test_fault_106_side_thread_may_not_start_a_child(tmp_path: Path) -> None:
    """Linux would kill the child when that thread ends, though the process lives on."""
    refused: list[EngineError] = []

    def start() -> None:
        try:
            asyncio.run(Child.spawn(("true",), environment=NOTHING, cwd=tmp_path))
        except EngineError as exc:
            refused.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(BOUND_S)
    assert "side thread" in refused[0].message


async def test_asked_to_stop_it_may_end_by_itself(spawned: Begin) -> None:
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {SLEEP}"
    child = await spawned(code)
    await said(child, "up")
    assert await child.stop(grace_s=BOUND_S)
    assert await child.exited() == 7


async def test_deaf_to_sigterm_it_is_killed_and_that_is_verified(spawned: Begin) -> None:
    child = await spawned(DEAF)
    await said(child, "up")
    assert await child.stop(grace_s=0.1)
    assert await child.exited() == -signal.SIGKILL
    assert not psutil.pid_exists(child.pid)


async def test_stop_finishes_though_its_caller_is_cancelled(spawned: Begin) -> None:
    child = await spawned(DEAF)
    await said(child, "up")
    stopping = asyncio.create_task(child.stop(grace_s=0.1))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    async with asyncio.timeout(BOUND_S):
        assert await child.exited() == -signal.SIGKILL


async def test_several_stops_share_one_end(spawned: Begin) -> None:
    child = await spawned(SLEEP)
    await said(child, "up")
    assert await asyncio.gather(*(child.stop(grace_s=1) for _ in range(3))) == [True] * 3


FORKS = """
import os, sys, time
told, tell = os.pipe()
if os.fork() == 0:
    {before}
    print("grandchild", os.getpid(), flush=True)
    os.write(tell, b"x")
    time.sleep(60)
os.read(told, 1)
print("up", flush=True)
{after}
"""
"""The parent goes on once its child has said who it is: of a parent that has ended, the log is soon read no more."""


@pytest.mark.parametrize("before", ["pass", "os.setsid()"], ids=["same group", "session of its own"])
async def test_grandchild_is_ended_with_its_parent(spawned: Begin, before: str) -> None:
    child = await spawned(FORKS.format(before=before, after="time.sleep(60)"))
    pid = int((await said(child, "grandchild")).split()[1])
    assert await child.stop(grace_s=BOUND_S)
    assert not lives(pid)


async def test_grandchild_that_holds_the_log_open_does_not_keep_the_end_unseen(spawned: Begin) -> None:
    child = await spawned(FORKS.format(before="os.setsid()", after="sys.exit(1)"))
    pid = int((await said(child, "grandchild")).split()[1])
    try:
        async with asyncio.timeout(BOUND_S):
            assert await child.exited() == 1
            assert await child.stop(grace_s=1)
    finally:
        # Its parent was gone before anybody looked: nothing ties it to us any more.
        os.kill(pid, signal.SIGKILL)
        await gone(pid)


async def test_grandchild_left_in_the_group_by_a_crash_is_ended(spawned: Begin) -> None:
    child = await spawned(FORKS.format(before="pass", after="os.abort()"))
    pid = int((await said(child, "grandchild")).split()[1])
    async with asyncio.timeout(BOUND_S):
        assert await child.exited() == -signal.SIGABRT
    assert await child.stop(grace_s=BOUND_S)
    assert not lives(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
async def test_unreaped_grandchild_does_not_count_as_a_survivor(spawned: Begin) -> None:
    """In a container without an init AirLab is process 1: orphans become its children, and nobody reaps them."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        child = await spawned(FORKS.format(before="pass", after="time.sleep(60)"))
        pid = int((await said(child, "grandchild")).split()[1])
        assert await child.stop(grace_s=BOUND_S)
        assert os.waitpid(pid, os.WNOHANG)[0] == pid  # noqa: ASYNC222 # WNOHANG: it does not wait
    finally:
        assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


PARENT = """
import asyncio, sys
from pathlib import Path
from app.process import Child

async def main():
    argv = (sys.executable, "-I", "-S", "-c", sys.argv[1])
    child = await Child.spawn(argv, environment={}, cwd=Path("/"))
    while not child.log.lines:
        await asyncio.sleep(0.01)
    print(child.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def child_of_a_killed_parent(code: str) -> int:
    """The process id of a child that was up when its parent got SIGKILL."""
    argv = (sys.executable, "-c", PARENT, code)
    parent = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        assert parent.stdout is not None
        async with asyncio.timeout(BOUND_S):
            pid = int(await parent.stdout.readline())
        assert lives(pid)
    finally:
        parent.kill()
        await parent.communicate()
    return pid


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child must watch its standard input")
async def test_child_dies_with_a_parent_that_is_killed() -> None:
    """kill -9 of AirLab leaves no llama-server with gigabytes of memory behind."""
    await gone(await child_of_a_killed_parent(SLEEP))


async def test_standard_input_ends_with_a_parent_that_is_killed() -> None:
    """How a child learns of it where there are no parent-death signals: this one has taken its own back."""
    watches = "import ctypes, sys; ctypes.CDLL(None).prctl(1, 0); print('up', flush=True); sys.stdin.read()"
    pid = await child_of_a_killed_parent(watches)
    await gone(pid)


async def test_activity_moves_while_the_child_works(spawned: Begin) -> None:
    child = await spawned("print('up', flush=True)\nwhile True: pass")
    await said(child, "up")
    seen = child.activity()
    assert seen is not None
    async with asyncio.timeout(BOUND_S):
        while child.activity() == seen:  # noqa: ASYNC110 # the kernel's counters make no event
            await asyncio.sleep(0.01)


async def test_leftovers_are_told_by_the_option_that_names_a_path_in_our_folder(spawned: Begin, tmp_path: Path) -> None:
    """An editor, a shell or a curl that names the folder, and another installation, are none of ours."""
    ours, theirs = tmp_path / "airlab-1", tmp_path / "airlab-12"
    left = await spawned(SLEEP, "--host", str(ours / "3-m.sock"))
    kept = [
        await spawned(SLEEP, "--host", str(theirs / "3-m.sock")),
        await spawned(SLEEP, "--unix-socket", str(ours / "3-m.sock")),
        await spawned(SLEEP, f"ls {ours}/3-m.sock"),
    ]
    for child in (left, *kept):
        await said(child, "up")
    assert await end_leftovers("--host", ours) == [left.pid]
    async with asyncio.timeout(BOUND_S):
        assert await left.exited() == -signal.SIGKILL
    assert all(child.running for child in kept)


@pytest.mark.parametrize("turns", range(6))
async def test_start_whose_caller_leaves_leaves_no_child(tmp_path: Path, turns: int) -> None:
    """A caller that is cancelled in the middle of a start gets no child, so nobody else would end it."""
    argv = (sys.executable, "-I", "-S", "-c", SLEEP, str(tmp_path))
    start = asyncio.ensure_future(Child.spawn(argv, environment=NOTHING, cwd=tmp_path))
    for _ in range(turns):
        await asyncio.sleep(0)
    start.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await start).stop(grace_s=0)

    told = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    assert not [argv for argv in told if str(tmp_path) in argv]
