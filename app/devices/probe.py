"""What this host is, as far as starting models depends on it. Knows nothing of models."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Host:
    """The host as far as it could be seen."""

    cores: int
    """Physical processor cores that this process may use, at least 1."""
    can_offload: bool
    """False where the engine that would run has no part for a GPU; True says only that it may have one."""


def probe_host(*, can_offload: bool) -> Host:
    """Look at the host; takes a few milliseconds. Of GPUs it knows what it is told of the engine."""
    return Host(cores=_usable_cores(), can_offload=can_offload)


def _usable_cores() -> int:
    """Physical cores, but no more than the affinity mask and the cgroup's quota leave us."""
    logical = os.cpu_count() or 1
    limits = [psutil.cpu_count(logical=False) or logical]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    quota = _cgroup_cores(Path("/sys/fs/cgroup/cpu.max"))
    if quota is not None:
        limits.append(quota)
    return max(1, min(limits))


def _cgroup_cores(file: Path) -> int | None:
    """The quota of cgroup v2, rounded down to whole cores (at least 1); None where there is none."""
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, math.floor(int(quota) / int(period)))
