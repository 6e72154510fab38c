"""A soak that is told to end takes with it what it started."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.service import BOUND_S, ROOT, wait_until


def test_soak_that_is_told_to_end_leaves_no_service(tmp_path: Path) -> None:
    """As a job that is cancelled does, in the background, where Ctrl-C is ignored."""
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _IN_THE_BACKGROUND, "-m", "tests.soak.fleet", "600"]
    soak = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    try:
        started = wait_until(lambda: _engines_below(soak.pid), "it has a service, and that has an engine")
        soak.send_signal(signal.SIGTERM)
        assert soak.wait(BOUND_S) != 0
        wait_until(lambda: not any(map(_lives, started)), "nothing that it started is left")
        assert list(tmp_path.iterdir()) == []
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


def _engines_below(pid: int) -> list[psutil.Process]:
    """The service and what it runs, once that is more than the service alone."""
    children = psutil.Process(pid).children(recursive=True)
    return children if len(children) > 1 else []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
