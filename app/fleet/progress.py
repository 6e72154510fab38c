"""Tells an engine that hangs from one that works, however green its /health: by what it sends and by what it computes.

What counts is how long it was waited for in vain. A client that gives up takes nothing of that back, and one that asks
anew begins nothing anew: else clients whose patience ends before ours would keep a dead engine for ever. While nobody
waits, nothing is owed, and no time passes. Pure but for the clock; who looks, and acts on it, is ``instance.py``.
"""

from __future__ import annotations

import time

from app.fleet.states import Limits

_WORKING_SHARE, _LEAST_WORK_S = 0.02, 0.02
"""An engine that uses less of a processor while it is waited for does nothing: to be asked takes it some. The kernel
counts in hundredths of a second, so that two of them are nothing yet, however short the time."""
_LATE_S = 10.0
"""A look that comes so long after the one before says that AirLab itself stood still, and perhaps all of the host: a
frozen container, a debugger. What was waited for meanwhile is nobody's debt."""


class Stopwatch:
    """Seconds that somebody waited, all in all, since it was last set to nothing."""

    __slots__ = ("_before_s", "_since_s")

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._before_s = 0.0
        self._since_s: float | None = None

    def start(self, now_s: float) -> None:
        """Somebody waits from now on."""
        self._since_s = now_s

    def stop(self, now_s: float) -> None:
        """Nobody waits any more; what was waited stays."""
        self._before_s, self._since_s = self.seconds(now_s), None

    def reset(self, now_s: float) -> None:
        """What was waited for is there; who still waits, waits for the next."""
        self._before_s = 0.0
        if self._since_s is not None:
            self._since_s = now_s

    def seconds(self, now_s: float) -> float:
        """How long."""
        return self._before_s + (0.0 if self._since_s is None else now_s - self._since_s)


class Progress:
    """What one engine owes to those who ask it: by request, and all in all."""

    def __init__(self) -> None:
        """Nobody asked yet."""
        self._waiting: set[Stopwatch] = set()
        self._silent = Stopwatch()
        """While anybody waits; set to nothing by a piece of an answer."""
        self._still = Stopwatch()
        """The same, and set to nothing by work as well."""

    @property
    def waiting(self) -> int:
        """How many wait for a byte now; not those whose client is slow to take what came."""
        return len(self._waiting)

    def begin(self, request: Stopwatch) -> None:
        """This request waits for a byte from now on."""
        now_s = time.monotonic()
        if not self._waiting:
            self._silent.start(now_s)
            self._still.start(now_s)
        self._waiting.add(request)
        request.start(now_s)

    def end(self, request: Stopwatch) -> None:
        """It waits no more: something came, or its client left. That alone is no progress."""
        now_s = time.monotonic()
        self._waiting.discard(request)
        request.stop(now_s)
        if not self._waiting:
            self._silent.stop(now_s)
            self._still.stop(now_s)

    def came(self, request: Stopwatch) -> None:
        """It got a piece of what it asked for."""
        now_s = time.monotonic()
        request.reset(now_s)
        self._silent.reset(now_s)
        self._still.reset(now_s)

    def worked(self, now_s: float) -> None:
        """The engine used the processor: it may come to an answer yet."""
        self._still.reset(now_s)

    def begin_again(self, now_s: float) -> None:
        """Nothing that was waited for so far counts."""
        self._silent.reset(now_s)
        self._still.reset(now_s)

    def silent_s(self, now_s: float) -> float:
        """How long the engine was waited for, without a piece of any answer."""
        return self._silent.seconds(now_s)

    def still_s(self, now_s: float) -> float:
        """How long it was waited for, with neither a piece of any answer nor any work."""
        return self._still.seconds(now_s)

    def longest_s(self, now_s: float) -> float:
        """How long the one that has waited for longest has, whatever others were sent."""
        return max((request.seconds(now_s) for request in self._waiting), default=0.0)


class Watch:
    """The watch over one ready engine: looks now and then, and says when it hangs."""

    def __init__(self, progress: Progress, limits: Limits, *, cpu_s: float) -> None:
        """Begin; what was waited for while it loaded does not count.

        Args:
            progress: What it owes.
            limits: ``hung_s`` and ``silent_s`` of them.
            cpu_s: Seconds of processors that it used so far.
        """
        self._progress, self._limits = progress, limits
        self._worked_s = self._looked_s = time.monotonic()
        self._cpu_s = self._cpu_before_s = cpu_s
        """At the last look, and when what ``still_s`` tells was nothing."""
        self._still_s = 0.0
        progress.begin_again(self._worked_s)

    def hung_for_s(self, *, cpu_s: float | None) -> float | None:
        """For how many seconds it has been silent, once it is hung; else None.

        ``cpu_s`` is None where nobody can say what it used: then it has until ``Limits.silent_s``.

        It is hung when it was waited for so long (``Limits.hung_s``) without a piece of an answer and without work, or
        one request was; and, after much longer (``Limits.silent_s``), however much it works.
        """
        now_s, progress, limits = time.monotonic(), self._progress, self._limits
        late, self._looked_s = now_s - self._looked_s > _LATE_S, now_s
        if late:
            progress.begin_again(now_s)
            self._worked_s = now_s
        if cpu_s is None:
            progress.worked(now_s)
            self._worked_s, cpu_s = now_s, self._cpu_s
        still_s = progress.still_s(now_s)
        if still_s < self._still_s:  # something was sent since
            self._cpu_before_s = self._cpu_s
        if cpu_s - self._cpu_before_s > max(_WORKING_SHARE * still_s, _LEAST_WORK_S):
            progress.worked(now_s)
            self._worked_s, self._cpu_before_s, still_s = now_s, cpu_s, 0.0
        self._cpu_s, self._still_s = cpu_s, still_s
        longest_s = max(still_s, min(progress.longest_s(now_s), now_s - self._worked_s))
        if longest_s >= limits.hung_s:
            return longest_s
        silent_s = progress.silent_s(now_s)
        return silent_s if silent_s >= limits.silent_s else None
