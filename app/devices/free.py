"""What memory is free now, of the host, of its NUMA nodes and of GPUs. What nobody says is left out.

Knows nothing of models or of who has what was promised.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.devices.ask import ask
from app.devices.cpu import numa_nodes, read
from app.units import KIB, MIB

_SMI = ("--query-gpu=index,memory.free,uuid", "--format=csv,noheader,nounits")
_CGROUP = "sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class FreeGpu:
    """What is free on one GPU."""

    number: int
    """nvidia-smi's, by the PCI bus."""
    free_bytes: int
    uuid: str
    """NVIDIA's name for this very card, such as ``GPU-5f7c...``."""


def free_ram(root: Path = Path("/")) -> int | None:
    """Bytes that new processes could have without swapping: the kernel's own estimate, or what our cgroup leaves."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", read(root / "proc/meminfo"), re.MULTILINE)
    limits = [int(found[1]) * KIB] if found else []
    limit, used = read(root / _CGROUP / "memory.max").strip(), read(root / _CGROUP / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        # Pages of files count as used there, and go when they must.
        cached = re.search(r"^inactive_file (\d+)$", read(root / _CGROUP / "memory.stat"), re.MULTILINE)
        limits.append(max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0)))
    return min(limits, default=None)


def free_nodes(root: Path = Path("/")) -> Mapping[str, tuple[int, tuple[int, ...]]]:
    """For each NUMA node its free bytes and processors; empty where there is one, or it is not known.

    A node without processors, such as memory on an expander card, is left out: nothing is kept to it.
    """
    free: dict[str, tuple[int, tuple[int, ...]]] = {}
    for node in numa_nodes(root):
        if not node.cpus:
            continue
        text = read(root / f"sys/devices/system/node/node{node.number}/meminfo")
        fields = {name: int(kib) * KIB for name, kib in re.findall(r"\b([A-Z]\w+(?:\(file\))?):\s*(\d+) kB", text)}
        if "MemFree" not in fields:
            return {}
        cached = fields.get("Active(file)", 0) + fields.get("Inactive(file)", 0)
        free[f"node {node.number}"] = fields["MemFree"] + cached, node.cpus
    return free if len(free) > 1 else {}


def free_vram() -> tuple[FreeGpu, ...]:
    """Each GPU with its free memory; empty where there is none, or nobody can say. Blocks for 6 s at most."""
    program = shutil.which("nvidia-smi", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/lib/wsl/lib")
    told = ask([program, *_SMI]) if program else None
    return parse_free_vram(told.text) if told and told.text else ()


def parse_free_vram(text: str) -> tuple[FreeGpu, ...]:
    """The rows of nvidia-smi; one without figures, as of a GPU that shares the host's memory, is left out."""
    rows = [[word.strip() for word in line.split(",")] for line in text.splitlines()]
    return tuple(
        FreeGpu(int(row[0]), int(row[1]) * MIB, row[2])
        for row in rows
        if len(row) == 3 and row[0].isdecimal() and row[1].isdecimal()
    )
