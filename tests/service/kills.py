"""Ends a service as kill -9 does, and sees that engine and workers go with it."""

from __future__ import annotations

import signal

import psutil

from tests.support.service import GONE_S, Service, wait_until


def kill(service: Service) -> None:
    """End it as kill -9 does; engine and workers must go with it."""
    # Its workers are started beside what it serves: one who is quick comes before them.
    running = psutil.Process(service.process.pid)
    wait_until(running.children, "it has started something")
    # Stopped first, so that nothing is started between the look and the kill.
    service.signal(signal.SIGSTOP)
    children = running.children(recursive=True)
    service.signal(signal.SIGKILL)
    service.wait()
    assert len(children) >= 1
    wait_until(lambda: not any(_lives(child) for child in children), "engine and workers are gone", bound_s=GONE_S)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
