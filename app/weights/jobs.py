"""What a download job is: how far it came, how it ended, and which facts are told of it.

Written by ``Downloads`` alone, and read by whoever shows it. Knows nothing of servers and disks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from app.errors import AirLabError
from app.journal import Fact, Trouble
from app.weights.transfer import Progress

_RATE_S = 8.0
"""How far back the rate looks."""

Phase = Literal["waiting", "resolving", "downloading", "verifying"]
Outcome = Literal["done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class DownloadStarted(Fact):
    """Somebody asked for a model's files."""

    model: str
    source: str
    actor: str


@dataclass(frozen=True, slots=True)
class DownloadProgressed(Fact):
    """Once a second while it comes."""

    model: str
    done_bytes: int
    total_bytes: int | None
    bytes_per_s: int
    eta_s: float | None

    @property
    def level(self) -> int:
        """For the event stream, and no line a second in the log."""
        return 10


@dataclass(frozen=True, slots=True)
class DownloadFinished(Fact):
    """The model's files are there, verified."""

    model: str
    total_bytes: int | None
    took_s: float


@dataclass(frozen=True, slots=True)
class DownloadCancelled(Fact):
    """Somebody ended it; what came is kept."""

    model: str
    done_bytes: int


@dataclass(frozen=True, slots=True)
class DownloadFailed(Trouble):
    """It ended by itself, unfinished."""

    model: str
    message: str


@dataclass(slots=True)
class Job:
    """One download. ``Downloads`` writes it; from its thread no more than ``phase`` and ``files``."""

    source: str
    keys: set[str]
    """The models that it is for."""
    phase: Phase = "waiting"
    outcome: Outcome | None = None
    error: AirLabError | None = None
    begun_s: float = field(default_factory=time.monotonic)
    files: tuple[tuple[Path, Progress], ...] = ()
    """Where they go, and how far each is."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def model(self) -> str:
        """The model that it was first asked for."""
        return min(self.keys)

    @property
    def state(self) -> Phase | Outcome:
        """How it ended, or what it does."""
        if self.outcome is None and any(progress.verifying for _, progress in self.files):
            return "verifying"
        return self.outcome or self.phase

    @property
    def is_active(self) -> bool:
        """Whether it still goes on."""
        return self.outcome is None

    @property
    def done_bytes(self) -> int:
        """All that is on disk of its files."""
        return sum(progress.done_bytes for _, progress in self.files)

    @property
    def total_bytes(self) -> int | None:
        """What its files take together; None while that is not known."""
        totals = [progress.total_bytes for _, progress in self.files]
        return sum(total for total in totals if total is not None) if totals and None not in totals else None

    @property
    def missing_bytes(self) -> int:
        """What is still to come, as far as it is known."""
        return max(0, (self.total_bytes or 0) - self.done_bytes) if self.is_active else 0

    @property
    def bytes_per_s(self) -> int:
        """How fast it came in the last seconds."""
        if len(self._seen) < 2:
            return 0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return round(max(0, last - first) / (last_s - first_s)) if last_s > first_s else 0

    def sample(self, now_s: float) -> None:
        """Remember how far it is, for the rate."""
        self._seen.append((now_s, self.done_bytes))
        while self._seen[0][0] < now_s - _RATE_S:
            self._seen.popleft()

    @property
    def eta_s(self) -> float | None:
        """How long it may still take, in seconds; None while nobody can say."""
        if self.total_bytes is None or not self.bytes_per_s or self.state != "downloading":
            return None
        return round(self.missing_bytes / self.bytes_per_s, 1)

    def told(self) -> dict[str, Any]:
        """The job for pages."""
        notes = [progress.message for _, progress in self.files if progress.message]
        return {
            "state": self.state,
            "source": self.source,
            "files": [str(target) for target, _ in self.files],
            "done_bytes": self.done_bytes,
            "total_bytes": self.total_bytes,
            "bytes_per_s": self.bytes_per_s if self.is_active else 0,
            "eta_s": self.eta_s,
            "message": self.error.message if self.error else (notes[0] if notes and self.is_active else None),
        }
