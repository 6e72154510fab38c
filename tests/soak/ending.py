"""Ends a soak as Ctrl-C does when it is told to end, with the service that it started and all that this one did."""

from __future__ import annotations

import signal


def end_when_told() -> None:
    """Take SIGTERM for Ctrl-C, which the event loop and every ``with`` know how to take.

    In the background of a shell a process ignores Ctrl-C, so it is made to hear it again.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
