"""Runs AirLab as its user does, ``python -m app serve`` in a folder of its own, and sees that nothing of it is left.

Knows how to lay the folder, start, stop and look; what AirLab should answer is for the tests.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import psutil
import pytest

from app.api.guard import _LOOK_AFTER_S
from tests.support.fake import fake_llama_server_command, write_fault
from tests.support.gguf import minimal_gguf

EngineKind = Literal["embedded", "real", "fake"]
Section = Mapping[str, Any]
T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
MODEL_FILE = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BOUND_S = 40.0
"""No wait in these tests is longer; on a calm machine all of them are over in a second or two."""
COMMAND_S = 120.0
"""The same for a command, which may load models and have them generate."""
GONE_S = 20.0
"""How long the kernel may take to end what was killed with its parent: at once, but for a machine that is busy."""
USE_KEY, ADMIN_KEY = "use-key-for-tests", "admin-key-for-tests"
KEYS = {"AIRLAB_API_KEY": USE_KEY, "AIRLAB_ADMIN_KEY": ADMIN_KEY}
HELLO = [{"role": "user", "content": "Hello there"}]
CHAT = "/v1/chat/completions"


def wait_until(look: Callable[[], T | None], what: str, *, bound_s: float = BOUND_S, every_s: float = 0.02) -> T:
    """Look again and again until there is something to see, and return it; fails after ``bound_s``, naming ``what``."""
    ends_s = time.monotonic() + bound_s
    while not (seen := look()):
        assert time.monotonic() < ends_s, f"not within {bound_s:.0f} s: {what}"
        time.sleep(every_s)
    return seen


@dataclass(frozen=True)
class EngineProcess:
    """One llama-server of a running AirLab, found as anybody could: its pid in /ps, its socket in its arguments."""

    pid: int
    socket: Path

    def ask(self, path: str) -> Any:
        """What it answers to a GET on its unix socket."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=BOUND_S) as client:
            return client.get(f"http://engine{path}").raise_for_status().json()

    def kill(self) -> None:
        """End it without a warning."""
        os.kill(self.pid, signal.SIGKILL)

    @property
    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass
class Service:
    """A running AirLab."""

    url: str
    process: subprocess.Popen[str]
    http: httpx.Client
    log_file: Path
    may_log_tracebacks: bool = False

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_file.read_text(errors="replace")

    def model(self, key: str = "small") -> dict[str, Any]:
        """The row of /ps."""
        rows = self.http.get("/ps").raise_for_status().json()["models"]
        return next(row for row in rows if row["key"] == key)

    def until_model(self, key: str, reached: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Wait until /ps shows this of a model."""
        wait_until(lambda: reached(self.model(key)), f"{key}: {what}")

    def until_state(self, key: str, state: str) -> None:
        """Wait until /ps shows the model in this state."""
        self.until_model(key, lambda row: row["state"] == state, state)

    def engine(self, key: str = "small") -> EngineProcess:
        """The engine of a model, once it has one that listens."""
        return wait_until(lambda: _engine_of(self.model(key)["pid"]), f"{key} has an engine that listens")

    def chat(self, **more: Any) -> httpx.Response:
        """One short chat."""
        return self.http.post(CHAT, json={"messages": HELLO, "max_tokens": 4, "temperature": 0, **more})

    @contextmanager
    def stream(self, **more: Any) -> Iterator[httpx.Response]:
        """An open stream; leaving the block leaves the stream."""
        asked = {"messages": HELLO, "max_tokens": 4, "temperature": 0, "stream": True, **more}
        with self.http.stream("POST", CHAT, json=asked) as answer:
            yield answer

    @contextmanager
    def asked(self, path: str, body: Section) -> Iterator[None]:
        """A POST whose answer nobody reads; leaving the block leaves it, as a client does that gives up."""
        headers = {**self.http.headers, "content-type": "application/json"}
        with closing(HTTPConnection(self.url.removeprefix("http://"), timeout=BOUND_S)) as connection:
            connection.request("POST", path, json.dumps(body), headers)
            yield
        self.hear()

    def hear(self) -> None:
        """Come back once it has acted on what was sent to it, or closed, before.

        It has looked then whether clients left, and its loop has gone round often since.
        """
        looked_s = time.monotonic() + _LOOK_AFTER_S
        while time.monotonic() < looked_s:
            self.model()
        for _ in range(10):
            self.model()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, bound_s: float = BOUND_S) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(bound_s)


def _engine_of(pid: int | None) -> EngineProcess | None:
    """What this process is, once it has become llama-server and listens; it may end while it is looked at."""
    if pid is None:
        return None
    with suppress(psutil.NoSuchProcess, OSError):
        argv = psutil.Process(pid).cmdline()
        if "--host" in argv and not any(part.endswith("tether.py") for part in argv):
            engine = EngineProcess(pid, Path(argv[argv.index("--host") + 1]))
            # Its socket file is there a moment before anybody is heard on it.
            with closing(socket.socket(socket.AF_UNIX)) as heard:
                heard.settimeout(1)  # who is stopped may have its queue full
                heard.connect(str(engine.socket))
            return engine
    return None


def events_of(answer: httpx.Response) -> list[str]:
    """The data of every event of a stream, in order; fails at a line that is neither data nor the end of an event."""
    events = []
    for line in answer.iter_lines():
        assert not line or line.startswith("data: "), line
        if line:
            events.append(line.removeprefix("data: "))
    return events


@dataclass
class Lab:
    """A folder with a manifest and models/, and how AirLab is to be run in it."""

    folder: Path
    engine: EngineKind = "fake"
    models: Mapping[str, Section] = field(default_factory=lambda: {"small": {}})
    profile: Section = field(default_factory=dict)
    server: Section = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Models whose files are not laid."""
    program: str = os.environ.get("AIRLAB_TEST_PROGRAM", "app")
    """The module that is run: AirLab, or AirLab with something changed."""

    def __post_init__(self) -> None:
        """Lay it."""
        (self.folder / "models").mkdir()
        common = {"context_length": 1024, "n_threads": 1}
        manifest = {
            "version": 1,
            "server": dict(self.server),
            "default_model": next(iter(self.models)),
            "profiles": {"generic": {"match": "any", **self.profile}},
            "models": {key: {"filename": f"{key}.gguf", **common, **more} for key, more in self.models.items()},
        }
        self.write_manifest(json.dumps(manifest, indent=1))
        for key in self.models.keys() - set(self.missing):
            self.lay_weights(key)

    @property
    def manifest(self) -> Path:
        """The manifest's file."""
        return self.folder / "airlab.yaml"

    def write_manifest(self, text: str) -> None:
        """Replace the manifest."""
        self.manifest.write_text(text)

    def weights(self, key: str) -> Path:
        """The file of a model, there or not."""
        return self.folder / "models" / f"{key}.gguf"

    def lay_weights(self, key: str) -> None:
        """Put the model's file where the manifest says."""
        if self.engine == "fake":
            self.weights(key).write_bytes(minimal_gguf())
            return
        assert MODEL_FILE.is_file(), f"{MODEL_FILE} is missing; to fix: run make setup"
        self.weights(key).symlink_to(MODEL_FILE)

    def fault(self, key: str, **script: object) -> None:
        """Say how the next starts of the fake engine shall go for this model."""
        write_fault(self.weights(key), **script)

    @property
    def full_environment(self) -> dict[str, str]:
        """All that AirLab gets to see: nothing of the test's own environment."""
        built: dict[str, str] = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "LANG": "C.UTF-8",
            "AIRLAB_MANIFEST": str(self.manifest),
            "AIRLAB_PORT": "0",
            "PYTHONWARNINGS": "error",
        }
        if self.engine == "fake":
            built["LLAMA_SERVER_PATH"] = str(fake_llama_server_command(self.folder))
        elif self.engine == "real":
            built["LLAMA_SERVER_PATH"] = os.environ["AIRLAB_TEST_LLAMA_SERVER"]
        return {**built, **self.environment}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``airlab`` with these arguments, run to its end."""
        command = [sys.executable, "-m", "app", *arguments]
        told = {**self.full_environment, **environment}
        return subprocess.run(
            command, cwd=ROOT, env=told, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )

    @contextmanager
    def serve(self, *, key: str | None = None) -> Iterator[Service]:
        """AirLab, serving; stopped at the end of the block, whatever happened there, and nothing of it left.

        Args:
            key: Sent with every request of ``Service.http``.
        """
        log_file = self.folder / "service.log"
        with ExitStack() as stack:
            log = stack.enter_context(log_file.open("w"))
            process = subprocess.Popen(
                [sys.executable, "-m", self.program, "serve"],
                cwd=ROOT,
                env=self.full_environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            try:
                url = _announced_url(process)
                headers = {"authorization": f"Bearer {key}"} if key else {}
                client = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=BOUND_S))
                service = Service(url, process, client, log_file)
                yield service
            except BaseException as exc:
                self._end(process)
                exc.add_note(f"the service's log:\n{log_file.read_text(errors='replace')[-8000:]}")
                raise
            self._stop(service)

    def _stop(self, service: Service) -> None:
        ended_before = service.process.poll() is not None
        code = self._end(service.process)
        log = service.log
        assert ended_before or code == 0, f"exit code {code} after SIGTERM; the service's log:\n{log}"
        assert service.may_log_tracebacks or "Traceback" not in log, log
        if code != -signal.SIGKILL:  # a killed service leaves socket files to its successor
            assert not self.sockets(), f"left: {self.sockets()}; the service's log:\n{log}"

    def _end(self, process: subprocess.Popen[str]) -> int:
        """Stop it and look that no engine is left; those that are left get killed before the test fails."""
        try:
            process.terminate()
            code = process.wait(BOUND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        finally:
            assert process.stdout
            process.stdout.close()
        try:
            wait_until(lambda: not self.engine_processes(), "no engine is left", bound_s=GONE_S)
        finally:
            for left in self.engine_processes():
                with suppress(psutil.NoSuchProcess):
                    left.kill()
        return code

    def engine_processes(self) -> list[psutil.Process]:
        """Living processes that were given a path of this folder: engines, and what is on the way to become one."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            named = any(str(self.folder) in argument for argument in process.info["cmdline"] or ())
            if named and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def sockets(self) -> list[Path]:
        """Socket files of engines."""
        return [path for path in self.folder.glob("airlab-*/*") if path.is_socket()]


def _announced_url(process: subprocess.Popen[str]) -> str:
    """The address on standard output, its first line."""
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], BOUND_S)
    line = process.stdout.readline() if ready else ""
    assert line.startswith("AirLab serves on http://"), f"announced {line!r}; exit code {process.poll()}"
    return line.removeprefix("AirLab serves on ").strip()


@contextmanager
def temporary_lab(engine: EngineKind = "fake", **more: Any) -> Iterator[Lab]:
    """A lab in a folder that goes when the block ends; its path is short, as the paths of unix sockets must be."""
    folder = Path(tempfile.mkdtemp(prefix="airlab-test-")).resolve()
    try:
        yield Lab(folder, engine, **more)
    finally:
        shutil.rmtree(folder)


def require_real_engine() -> None:
    """Leave the test out when no real llama-server is named; fail it where there should be one."""
    if os.environ.get("AIRLAB_TEST_LLAMA_SERVER"):
        return
    text = "AIRLAB_TEST_LLAMA_SERVER names no llama-server, so the tests of the real engine are left out"
    if os.environ.get("AIRLAB_TEST_REQUIRE_LLAMA") == "1":
        pytest.fail(text)
    pytest.skip(text)
