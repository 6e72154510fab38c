"""How often the kernel has ended a process for want of memory: who sent a SIGKILL cannot be asked, so it is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from app.devices.cpu import read

_CGROUP = "sys/fs/cgroup"


def out_of_memory_kills(root: Path = Path("/")) -> int:
    """Since the machine's start, or our cgroup's; 0 where nobody tells.

    Of our cgroup's processes, whoever's memory ran out, where the kernel counts them; else of all on this machine: then
    the end of somebody else's in its container may be taken for ours, if ours was killed meanwhile. Sources:
    docs.kernel.org, admin-guide/cgroup-v2 (``memory.events``) and cgroup-v1/memory (``memory.oom_control``).
    """
    for file in (*_files_of_our_cgroup(root), root / "proc/vmstat"):
        found = re.search(r"^oom_kill (\d+)$", read(file), re.MULTILINE)
        if found:
            return int(found[1])
    return 0


def _files_of_our_cgroup(root: Path) -> Iterator[Path]:
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield root / _CGROUP / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            yield root / _CGROUP / "memory" / path.lstrip("/") / "memory.oom_control"
