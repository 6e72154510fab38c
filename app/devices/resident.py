"""What a process keeps in memory, as the kernel counts it. Knows nothing of models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from app.devices.cpu import read
from app.units import KIB


@dataclass(frozen=True, slots=True)
class Resident:
    """One process's memory."""

    resident_bytes: int
    """All pages that it has in memory, mapped files included."""
    own_bytes: int
    """Without mapped files: what the kernel gets back only when the process gives it back."""


def resident(pid: int, root: Path = Path("/")) -> Resident | None:
    """The memory of a process; None where it is gone, or not ours to see.

    Takes the kernel about a millisecond for each GiB: for a thread. Source: man 5 proc, smaps_rollup.
    """
    text = read(root / f"proc/{pid}/smaps_rollup")
    found = {name: int(kib) * KIB for name, kib in re.findall(r"^(Rss|Anonymous):\s+(\d+) kB$", text, re.MULTILINE)}
    return Resident(found["Rss"], found["Anonymous"]) if len(found) == 2 else None
