"""llama-server as a child process of ours, on a unix socket.

Finds the program (LLAMA_SERVER_PATH, PATH, else the embedded engine) and runs it. Does not know what is asked of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

import app
from app.devices.kills import out_of_memory_kills
from app.engines.base import Exit, Launch
from app.errors import EngineError
from app.process import Child, end_leftovers
from app.units import MIB

_EMBEDDED = (sys.executable, "-m", "app.engines.embedded")
_PYTHON_BYTES = 20 * MIB
_PACKAGE_HOME = Path(next(iter(app.__path__))).parent


class NativeEngine:
    """Runs llama-server natively; fulfils ``Engine``."""

    def __init__(self, run_dir: Path, llama_server_path: Path | None) -> None:
        """Sockets go to ``run_dir``, which only this installation uses."""
        self.run_dir = run_dir
        self._llama_server_path = llama_server_path

    def program(self) -> tuple[str, ...]:
        """The llama-server that would run: LLAMA_SERVER_PATH, one on PATH, else the embedded engine.

        Raises:
            EngineError: LLAMA_SERVER_PATH names no executable file.
        """
        given = self._llama_server_path
        if given is not None:
            if not (given.is_file() and os.access(given, os.X_OK)):
                raise EngineError(f"LLAMA_SERVER_PATH={given} is no executable file; correct it, or unset it")
            return (str(given.resolve()),)
        found = shutil.which("llama-server")
        return (found,) if found else _EMBEDDED

    @property
    def can_offload(self) -> bool:
        """False for the embedded engine, which has no part for a GPU; True where it is not known."""
        return self.program() != _EMBEDDED

    @property
    def base_bytes(self) -> int:
        """Memory that this program takes beyond what llama-server itself does: the embedded engine has Python, too."""
        return _PYTHON_BYTES if self.program() == _EMBEDDED else 0

    async def start(self, launch: Launch) -> NativeRunning:
        """Start the process. Raises EngineError."""
        program = (*_kept_to(launch.fit.cpus if launch.fit else ()), *self.program())
        self._make_run_dir()
        # A socket file that a dead server left makes the next bind fail.
        launch.socket.unlink(missing_ok=True)
        child = await Child.spawn((*program, *launch.arguments), environment=launch.environment, cwd=_PACKAGE_HOME)
        return NativeRunning(child, launch.socket)

    async def sweep(self) -> None:
        """End what a killed predecessor of this installation left, and its sockets."""
        self._make_run_dir()
        await end_leftovers("--host", self.run_dir)
        for socket in self.run_dir.glob("*.sock"):
            socket.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave nothing behind: nothing runs any more. What could not be stopped keeps its socket, and the folder."""
        with contextlib.suppress(OSError):
            self.run_dir.rmdir()

    def _make_run_dir(self) -> None:
        """Make sure of it at each start: whatever clears /tmp may have taken it. Raises EngineError."""
        try:
            self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            theirs = self.run_dir.is_symlink() or self.run_dir.stat().st_uid != os.getuid()
        except OSError as exc:
            raise EngineError(
                f"cannot use {self.run_dir} ({exc.strerror}); make room for it, or set TMPDIR to another folder"
            ) from exc
        if theirs:
            raise EngineError(f"{self.run_dir} belongs to somebody else; remove it, or set TMPDIR to another folder")


class NativeRunning:
    """A llama-server process; fulfils ``Running``."""

    def __init__(self, child: Child, socket: Path) -> None:
        """Use ``NativeEngine.start``."""
        self._child = child
        self.socket = socket
        self.pid: int | None = child.pid
        self.container: str | None = None
        self.fallback_because: str | None = None
        self._kills_before = out_of_memory_kills()

    def activity(self) -> tuple[float, ...] | None:
        """Processor seconds, bytes read, resident bytes; None when it is gone."""
        return self._child.activity()

    def last_lines(self) -> tuple[str, ...]:
        """The end of its log."""
        return tuple(self._child.log.lines)

    async def exited(self) -> Exit:
        """Wait for its end."""
        code = await self._child.exited()
        # Who sent a SIGKILL cannot be asked; the kernel counts those it sends for want of memory.
        ran_out = code == -signal.SIGKILL and out_of_memory_kills() > self._kills_before
        return Exit(code, self.last_lines(), ran_out)

    async def stop(self, *, grace_s: float) -> bool:
        """End the process group and remove the socket; True once verified.

        llama-server ignores SIGTERM while a request is open, so connections to it must be closed before.
        """
        gone = await self._child.stop(grace_s=grace_s)
        if gone:
            # llama-server leaves its socket behind.
            self.socket.unlink(missing_ok=True)
        return gone


def _kept_to(cpus: tuple[int, ...]) -> tuple[str, ...]:
    """What runs a program on these processors only; it takes its memory from the node that it runs on.

    Raises:
        EngineError: There is no ``taskset``.
    """
    if not cpus:
        return ()
    taskset = shutil.which("taskset")
    if taskset is None:
        raise EngineError("numa: per-node needs taskset; install util-linux, or write numa: distribute")
    return taskset, "--cpu-list", ",".join(map(str, cpus))
