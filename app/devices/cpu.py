"""Processors, NUMA nodes and memory, as Linux tells of them in /proc and /sys. What it does not say is None.

Knows nothing of GPUs. Everything is read below a root, so that what another machine said can be read as well.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import psutil

from app.devices.ask import printable
from app.manifest.host_sections import Isa
from app.units import KIB

_KNOWN_ISA = frozenset(get_args(Isa))


@dataclass(frozen=True, slots=True)
class Node:
    """One NUMA node: the processors that are near to one part of the memory."""

    cpus: tuple[int, ...]
    """Logical processors, by the kernel's numbers."""
    memory_bytes: int | None
    number: int
    """The kernel's number for it; some hosts leave numbers out."""


@dataclass(frozen=True, slots=True)
class Cpuinfo:
    """What /proc/cpuinfo says."""

    model: str | None
    isa: frozenset[str]
    """Instruction sets that engines care for and every processor has, in the kernel's names."""
    core_of: Mapping[int, tuple[int, int]]
    """Logical processor -> (socket, core in it); empty where the kernel does not say, as on ARM."""

    @property
    def sockets(self) -> int | None:
        """Processors that one can hold in the hand."""
        return len({socket for socket, _ in self.core_of.values()}) or None


def parse_cpuinfo(text: str) -> Cpuinfo:
    """Read /proc/cpuinfo; empty text, or that of an unknown kind of processor, leaves everything unknown."""
    model, isa, core_of = None, None, {}
    for block in re.split(r"\n\s*\n", text):
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in block.split("\n"))}
        if not fields.get("processor", "").isdecimal():
            continue
        model = model or printable(fields.get("model name", "")) or None
        # "flags" on x86, "Features" on ARM.
        flags = _KNOWN_ISA & set((fields.get("flags") or fields.get("Features") or "").split())
        isa = flags if isa is None else isa & flags
        socket, core = fields.get("physical id", ""), fields.get("core id", "")
        if socket.isdecimal() and core.isdecimal():
            core_of[int(fields["processor"])] = (int(socket), int(core))
    return Cpuinfo(model, isa or frozenset(), core_of)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read the kernel's lists, such as ``0-13,28-41``. Raises ValueError."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


def parse_memory_bytes(text: str) -> int | None:
    """The size of the memory, from /proc/meminfo or a NUMA node's meminfo."""
    found = re.search(r"\bMemTotal:\s*(\d+) kB", text)
    return int(found[1]) * KIB if found else None


def numa_nodes(root: Path) -> tuple[Node, ...]:
    """Every node, in the kernel's order; empty where it tells of none."""
    nodes = []
    for number in sorted(int(node.name[4:]) for node in (root / "sys/devices/system/node").glob("node[0-9]*")):
        folder = root / f"sys/devices/system/node/node{number}"
        try:
            cpus = parse_cpu_list(read(folder / "cpulist"))
        except ValueError:
            continue
        nodes.append(Node(cpus, parse_memory_bytes(read(folder / "meminfo")), number))
    return tuple(nodes)


def allowed_cpus(root: Path) -> frozenset[int]:
    """Logical processors that this process may run on; empty where the kernel does not say."""
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)$", read(root / "proc/self/status"), re.MULTILINE)
    try:
        return frozenset(parse_cpu_list(found[1])) if found else frozenset()
    except ValueError:
        return frozenset()


def usable_cores(cpuinfo: Cpuinfo, allowed: frozenset[int], root: Path) -> int:
    """Physical cores, but no more than the affinity mask and the cgroup's quota leave us; at least 1."""
    cores = {core for cpu, core in cpuinfo.core_of.items() if not allowed or cpu in allowed}
    limits = [len(cores) or psutil.cpu_count(logical=False) or os.cpu_count() or 1]
    if allowed:
        limits.append(len(allowed))
    quota = _cgroup_cores(read(root / "sys/fs/cgroup/cpu.max"))
    if quota is not None:
        limits.append(quota)
    return max(1, min(limits))


def _cgroup_cores(text: str) -> int | None:
    """The quota of cgroup v2, rounded down to whole cores (at least 1); None where there is none."""
    match text.split():
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
            return max(1, math.floor(int(quota) / int(period)))
    return None


def read(file: Path) -> str:
    """A file of the kernel's; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
