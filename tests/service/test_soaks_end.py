"""A soak that is told to end takes with it what it started."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.service import BOUND_S, ROOT, wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path: below pytest's own one no engine's socket would fit, and none would start."""
    with tempfile.TemporaryDirectory(prefix="airlab-test-") as folder:
        yield Path(folder)


def test_soak_that_is_told_to_end_leaves_no_service(folder: Path) -> None:
    """As a job that is cancelled does, in the background, where Ctrl-C is ignored."""
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _IN_THE_BACKGROUND, "-m", "tests.soak.fleet", "600"]
    soak = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    try:
        started = wait_until(lambda: _service_and_engines_of(soak.pid), "it has a service, and that has an engine")
        soak.send_signal(signal.SIGTERM)
        assert soak.wait(BOUND_S) != 0
        wait_until(lambda: not any(map(_lives, started)), "nothing that it started is left")
        assert list(folder.iterdir()) == []
    finally:
        soak.kill()
        soak.wait()
        for process in filter(_lives, started):
            process.kill()


_IN_THE_BACKGROUND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def _service_and_engines_of(pid: int) -> list[psutil.Process]:
    """All that the soak has started, once an engine of its service is among it.

    Then it is over with starting the service; a soak that is told to end in the middle of that may never know of it.
    """
    started = psutil.Process(pid).children(recursive=True)
    return started if any(_is_engine_below(process, pid) for process in started) else []


def _is_engine_below(process: psutil.Process, soak: int) -> bool:
    """An engine of the service: the server elsewhere is the soak's own child."""
    try:
        return process.ppid() != soak and "--model" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
