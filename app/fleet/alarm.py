"""When the fleet looks again by itself: one time ahead, the last one that was set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Alarm:
    """Calls back once at the time that it is set to."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """Set to nothing."""
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at_s: float | None = None

    def set(self, at_s: float | None) -> None:
        """Ring then, on the monotonic clock, and not when it would have; None for never."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at_s = None, at_s
        if at_s is not None:
            delay_s = max(0.0, at_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def rings_by(self, at_s: float) -> bool:
        """Whether it was set to that time or an earlier one."""
        return self._at_s is not None and self._at_s <= at_s
