"""Ends a service as kill -9 does, and sees that engine and workers go with it."""

from __future__ import annotations

import signal

import psutil

from tests.support.service import Service, wait_until


def kill(service: Service) -> None:
    """End it as kill -9 does; engine and workers must go with it."""
    # Stopped first, so that nothing is started between the look and the kill.
    service.signal(signal.SIGSTOP)
    children = psutil.Process(service.process.pid).children(recursive=True)
    service.signal(signal.SIGKILL)
    service.wait()
    assert len(children) >= 1
    wait_until(lambda: not any(_lives(child) for child in children), "engine and workers are gone", bound_s=10)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
