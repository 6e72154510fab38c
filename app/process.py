"""Children that cannot outlive us, and one staircase to stop them.

Owns one operating-system process with its group, its standard streams and the tail of its log. Knows nothing of what
the program is for. Linux kills a child when the thread that started it ends, so children are started from the main
thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from app.errors import EngineError

_TETHER = Path(__file__).with_name("tether.py")
_LOG_LINES, _LOG_LINE_BYTES = 200, 2048
_PIECE_BYTES = 65_536
_VERIFY_S = 5.0


def tied(argv: Sequence[str]) -> tuple[str, ...]:
    """What to start in place of ``argv``, from the main thread, so that the kernel kills it when this process dies."""
    return (sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *argv)


class LogTail:
    """The last lines that a child wrote, each cut at 2 KiB: a child cannot fill our memory."""

    def __init__(self) -> None:
        """Nothing written yet."""
        self.lines: deque[str] = deque(maxlen=_LOG_LINES)
        self.ended = asyncio.get_running_loop().create_future()
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Split what came into lines."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:_LOG_LINE_BYTES]
        self.lines.extend(line[:_LOG_LINE_BYTES].decode(errors="replace").rstrip() for line in whole)

    def end(self) -> None:
        """Keep a last line that has no end; nothing more will come."""
        if self._rest:
            self.lines.append(self._rest.decode(errors="replace"))
        if not self.ended.done():
            self.ended.set_result(None)


class _LogPipe:
    """Reads a pipe into a LogTail, and alone closes it.

    Not a transport: uvloop closes the descriptor of one itself and then its file object, which by then may be another
    thread's new descriptor of the same number.
    """

    def __init__(self, descriptor: int, tail: LogTail) -> None:
        self._descriptor: int | None = descriptor
        self._tail = tail
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def close(self) -> None:
        """Read no more; doing it again does nothing."""
        if self._descriptor is None:
            return
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        self._tail.end()

    def _read(self) -> None:
        if self._descriptor is None:
            return
        try:
            data = os.read(self._descriptor, _PIECE_BYTES)
        except BlockingIOError:
            return
        if data:
            self._tail.data_received(data)
        else:
            self.close()


class Child:
    """One running child process, alone in its process group."""

    def __init__(self, process: asyncio.subprocess.Process, stdin_fd: int, tail: LogTail, pipe: _LogPipe) -> None:
        """Use ``Child.spawn``."""
        self.pid = process.pid
        self.log = tail
        self._process = process
        self._stdin_fd = stdin_fd
        self._pipe = pipe
        self._exit = asyncio.create_task(self._watch())
        self._stopping: asyncio.Task[bool] | None = None
        self._descendants: set[psutil.Process] = set()
        """What it was seen to have started, in its group or in a session of its own."""

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        pass_fds: Sequence[int] = (),
        talk_fd: int | None = None,
    ) -> Child:
        """Start a program with exactly this environment; both its outputs go to ``log``.

        ``pass_fds`` are the only descriptors of ours that it gets, under the same numbers. Its standard input stays
        open as long as we live: a program that watches it learns of our death anywhere. Where ``talk_fd`` is given, a
        socket, its standard input and output are that, and only its standard error goes to ``log``.

        Raises:
            EngineError: The operating system refused.
        """
        if threading.current_thread() is not threading.main_thread():
            raise EngineError("a child started from a side thread would be killed when that thread ends")
        starting = asyncio.create_task(cls._spawn(argv, environment, cwd, pass_fds, talk_fd))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Begun is begun: without an owner it ends as soon as it exists.
            await asyncio.shield(asyncio.create_task(_end_unowned(starting)))
            raise

    @classmethod
    async def _spawn(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        pass_fds: Sequence[int],
        talk_fd: int | None,
    ) -> Child:
        pipes: list[int] = []
        try:
            stdin_read, stdin_write = ours = os.pipe()
            pipes += ours
            log_read, log_write = ours = os.pipe()
            pipes += ours
            process = await asyncio.create_subprocess_exec(
                *tied(argv),
                stdin=stdin_read if talk_fd is None else talk_fd,
                stdout=log_write if talk_fd is None else talk_fd,
                stderr=log_write,
                env=dict(environment),
                cwd=cwd,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        except OSError as exc:
            for descriptor in pipes:
                os.close(descriptor)
            raise EngineError(f"cannot start {argv[0]}: {exc.strerror or exc}") from exc
        os.close(stdin_read)
        os.close(log_write)
        tail = LogTail()
        return cls(process, stdin_write, tail, _LogPipe(log_read, tail))

    async def _watch(self) -> int:
        code = await self._process.wait()
        # The last lines may still be in the pipe; a grandchild that holds it open must not hold us.
        await asyncio.wait({self.log.ended}, timeout=0.2)
        self._pipe.close()
        os.close(self._stdin_fd)
        return code

    async def exited(self) -> int:
        """Wait for its end: the exit code, or minus the number of the signal that killed it."""
        return await asyncio.shield(self._exit)

    @property
    def running(self) -> bool:
        """False once the process is reaped."""
        return self._process.returncode is None

    def activity(self) -> tuple[float, int, int] | None:
        """Processor seconds used, bytes read and resident bytes so far; None when it is gone.

        What moves here is progress: llama-server logs nothing while it loads (measured).
        """
        try:
            process = psutil.Process(self.pid)
            with process.oneshot():
                cpu = process.cpu_times()
                rss = process.memory_info().rss
                read = process.io_counters().read_chars if hasattr(process, "io_counters") else 0
            return round(cpu.user + cpu.system, 2), read, rss
        except (psutil.Error, OSError, RuntimeError, ValueError):  # io_counters raises bare ones while it ends
            return None

    async def stop(self, *, grace_s: float) -> bool:
        """End the whole group: ask, wait ``grace_s``, kill, verify. True once nothing of it is left.

        Runs to its end also when the caller is cancelled. False means that something survived SIGKILL; calling again
        tries again.
        """
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._staircase(grace_s))
        return await asyncio.shield(self._stopping)

    async def _staircase(self, grace_s: float) -> bool:
        self._note_descendants()
        if self.running:
            self._signal_group(signal.SIGTERM)
            await asyncio.wait({self._exit}, timeout=grace_s)
            self._note_descendants()
        # Also after a clean exit: what it forked may still be there.
        self._signal_group(signal.SIGKILL)
        for descendant in self._descendants:
            with contextlib.suppress(psutil.Error):
                descendant.kill()
        await asyncio.wait({self._exit}, timeout=_VERIFY_S)
        return await self._gone()

    async def _gone(self) -> bool:
        return await _comes_true(
            lambda: not (self.running or self._group_lives() or any(map(_lives, self._descendants)))
        )

    def _signal_group(self, number: int) -> bool:
        """True when the group had a member to take the signal."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _group_lives(self) -> bool:
        return self._signal_group(0) and any(_lives(p) for p in psutil.process_iter() if _group_of(p) == self.pid)

    def _note_descendants(self) -> None:
        with contextlib.suppress(psutil.Error):
            self._descendants.update(psutil.Process(self.pid).children(recursive=True))


async def _comes_true(holds: Callable[[], bool]) -> bool:
    """Whether it does in time. Looked at, not waited for: psutil would reap our own child before asyncio does."""
    deadline_s = time.monotonic() + _VERIFY_S
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        await asyncio.sleep(0.02)
    return True


def _lives(process: psutil.Process) -> bool:
    """False also for a zombie: where we are process 1, what a child left behind is ours, and nobody reaps it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


async def _end_unowned(starting: asyncio.Task[Child]) -> None:
    try:
        child = await starting
    except EngineError:
        return
    await child.stop(grace_s=0)


async def end_leftovers(option: str, folder: Path) -> list[int]:
    """Kill processes of this user that were given ``option`` with a path right in ``folder``, as only our children are.

    For what a killed predecessor may have left on a system without parent-death signals. Returns the pids.
    """
    found = []
    for process in psutil.process_iter(["uids", "cmdline"]):
        cmdline, uids = process.info["cmdline"] or [], process.info["uids"]
        given = (path for name, path in itertools.pairwise(cmdline) if name == option)
        if any(Path(path).parent == folder for path in given) and uids and uids.real == os.getuid():
            with contextlib.suppress(psutil.Error):
                process.kill()
                found.append(process)
    await _comes_true(lambda: not any(map(_lives, found)))
    return [process.pid for process in found]
