"""AirLab whose every step may come late, at random: it finds tests that see an effect and want what follows it.

``make test-late`` runs all tests against it. On a machine that is quick, or slow in the same way each time, such a test
passes a hundred times and then fails; here it fails soon.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from concurrent.futures import thread

_LATEST_S = 0.15
"""The longest pause, and the longest time after one without another: else thousands of steps would take minutes."""
_STEPS_LATE = 0.05
"""The part of the event loop's steps before or after which there is a pause."""
_CALLS_LATE = 0.25
"""The part of the calls in threads before which there is a pause, and after which."""


class _Clock:
    rests_until_s = 0.0


def _perhaps(part: float) -> None:
    if random.random() < part and time.monotonic() > _Clock.rests_until_s:
        time.sleep(random.random() * _LATEST_S)
        _Clock.rests_until_s = time.monotonic() + random.random() * _LATEST_S


def _make_late(owner: type, method: str, part: float) -> None:
    run = getattr(owner, method)

    def late(self: object) -> None:
        _perhaps(part)
        run(self)
        _perhaps(part)

    setattr(owner, method, late)


if __name__ == "__main__":
    # uvloop's steps are compiled, nothing can come between them: without it, uvicorn takes asyncio's own loop.
    vars(sys)["modules"]["uvloop"] = None
    _make_late(asyncio.Handle, "_run", _STEPS_LATE)
    _make_late(thread._WorkItem, "run", _CALLS_LATE)

    from app.__main__ import main

    main()
