"""What is measured: AirLab as a process of its own in a folder that goes away, and the engine it started, directly.

Everything a block started has ended when the block is left.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from bench.figures import NotMeasuredError
from bench.load import Target, ask_json

HOME = Path(__file__).resolve().parent.parent
MODEL = HOME / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
_USE_KEY, _ADMIN_KEY = "bench-use-key", "bench-admin-key"
_START_S, _STOP_S, _LOAD_S = 30.0, 30.0, 120.0


@dataclass(frozen=True, slots=True)
class AirLab:
    """A running AirLab."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    begun_s: float
    """When its process was started, on the monotonic clock."""
    database: Path
    """Where it keeps conversations."""

    def end(self) -> None:
        """Stop it before its block ends; its folder is still there."""
        stop(self.process)

    @property
    def target(self) -> Target:
        """Where to ask, with a key that may use the models."""
        return Target(self.address, _USE_KEY)

    @property
    def admin(self) -> Target:
        """Where to ask, with a key that may do everything."""
        return Target(self.address, _ADMIN_KEY)

    def engine(self, model: str) -> Engine:
        """Load a model, and find its engine's process. Raises NotMeasuredError."""
        ask_json(self.admin, f"/models/{model}/load", {})
        rows = ask_json(self.target, "/ps")["models"]
        pid = next(row["pid"] for row in rows if row["key"] == model)
        process = psutil.Process(pid)
        return Engine(tuple(process.cmdline()), process.environ(), process.cwd())


@dataclass(frozen=True, slots=True)
class Engine:
    """How AirLab started an engine."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str

    @property
    def socket(self) -> Path:
        """The unix socket it serves on."""
        return Path(self.argv[self.argv.index("--host") + 1])

    @property
    def target(self) -> Target:
        """Where to ask it, past AirLab."""
        return Target(self.socket)

    def elsewhere(self, socket: Path) -> Engine:
        """The same on another socket."""
        argv = list(self.argv)
        argv[argv.index("--host") + 1] = str(socket)
        return Engine(tuple(argv), self.environment, self.folder)


def manifest(models: Mapping[str, str], *, slots: int) -> str:
    """A manifest with these keys and files. One thread: the gateway and the bench need a processor, too."""
    entries = "".join(
        f"  {key}: {{filename: {name}, context_length: 1k, n_threads: 1}}\n" for key, name in models.items()
    )
    profile = f"profiles:\n  bench: {{match: any, parallel: {slots}}}\n"
    return f"version: 1\ndefault_model: {next(iter(models))}\n{profile}models:\n{entries}"


def llama_server() -> str | None:
    """The llama-server that the environment names; None leaves it to AirLab: one on PATH, else the embedded engine."""
    return os.environ.get("AIRLAB_TEST_LLAMA_SERVER") or os.environ.get("LLAMA_SERVER_PATH")


@contextlib.contextmanager
def airlab(text: str, *, instant: bool = False, database: Callable[[Path], None] | None = None) -> Iterator[AirLab]:
    """AirLab on this manifest with both keys set, its engine the instant upstream or a real one.

    Args:
        text: The manifest.
        instant: Answers at once instead of by a model.
        database: Writes the conversations that are there when it starts.

    Raises:
        NotMeasuredError: There is no model, or it does not start; with the end of its log.
    """
    if not MODEL.is_file():
        raise NotMeasuredError(f"there is no {MODEL.relative_to(HOME)}; `make setup` lays it there")
    with tempfile.TemporaryDirectory(prefix="airlab-bench-") as name:
        home = Path(name)
        (home / "airlab.yaml").write_text(text)
        (home / "models").mkdir()
        (home / "models" / MODEL.name).symlink_to(MODEL)
        file = home / ".airlab" / "airlab.db"
        if database is not None:
            database(file)
        program = str(_instant_program(home)) if instant else llama_server()
        with (home / "log").open("wb") as log:
            begun_s = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                cwd=HOME,
                env=_environment(home, program),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            yield AirLab(process, _address(process, home / "log"), begun_s, file)
        finally:
            stop(process)


def _environment(home: Path, program: str | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRLAB_", "LLAMA_"))}
    engine = {} if program is None else {"LLAMA_SERVER_PATH": program}
    return {
        **kept,
        **engine,
        "AIRLAB_MANIFEST": str(home / "airlab.yaml"),
        "AIRLAB_HOST": "127.0.0.1",
        "AIRLAB_PORT": "0",
        "AIRLAB_API_KEY": _USE_KEY,
        "AIRLAB_ADMIN_KEY": _ADMIN_KEY,
        # Sockets lie there: they are to go away with the rest.
        "TMPDIR": str(home),
    }


def _instant_program(home: Path) -> Path:
    program = home / "instant-llama-server"
    upstream = Path(__file__).with_name("instant_upstream.py")
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(upstream)])} "$@"\n')
    program.chmod(0o700)
    return program


def _address(process: subprocess.Popen[bytes], log: Path) -> tuple[str, int]:
    """Where it serves, out of the line that it prints when it does."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _START_S)
    line = process.stdout.readline().decode() if readable else ""
    url = urlsplit(line.rpartition(" ")[2].strip())
    if url.hostname is None or url.port is None:
        raise NotMeasuredError(f"AirLab did not start: {log.read_text(errors='replace')[-500:].strip()}")
    return url.hostname, url.port


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and end it when it does not."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def start_engine(engine: Engine) -> subprocess.Popen[bytes]:
    """Start an engine without AirLab, and wait until /health answers 200. Raises NotMeasuredError."""
    process = subprocess.Popen(
        engine.argv,
        env=dict(engine.environment),
        cwd=engine.folder,
        stdin=subprocess.PIPE,  # open as long as we live: the embedded engine ends with it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + _LOAD_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            ask_json(engine.target, "/health")
        except (OSError, NotMeasuredError):
            time.sleep(0.005)
        else:
            return process
    stop_engine(process, engine)
    raise NotMeasuredError("the engine did not start without AirLab")


def stop_engine(process: subprocess.Popen[bytes], engine: Engine) -> None:
    """End it, and remove the socket that it leaves behind."""
    stop(process)
    assert process.stdin is not None
    process.stdin.close()
    engine.socket.unlink(missing_ok=True)
