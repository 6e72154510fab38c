"""What this host is, as far as choosing a profile and starting models depends on it. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from app.devices.cpu import Node, allowed_cpus, numa_nodes, parse_cpuinfo, parse_memory_bytes, read, usable_cores
from app.devices.gpus import Answer, Gpu, GpuSource, list_devices, merged, nvidia_smi


@dataclass(frozen=True, slots=True)
class Host:
    """The host as far as it could be seen; what nobody could say is None, or empty."""

    cores: int
    """Physical processor cores that this process may use, at least 1."""
    can_offload: bool
    """False where the engine that would run has no GPU that it could use; True says only that it may have one."""
    logical_cores: int | None = None
    """Logical processors that this process may run on."""
    cpu_model: str | None = None
    sockets: int | None = None
    numa_nodes: tuple[Node, ...] = ()
    isa: frozenset[str] = frozenset()
    """Instruction sets that engines care for, in the kernel's names."""
    memory_bytes: int | None = None
    """The memory of the whole host, whatever a container may use of it."""
    gpus: tuple[Gpu, ...] | None = None
    """None: nobody could say. Empty: whoever could say sees none."""
    notes: tuple[str, ...] = ()
    """Why those could not say who were asked for GPUs."""


def probe_host(
    *,
    can_offload: bool,
    engine: Sequence[str] = (),
    gpu_sources: Sequence[GpuSource] = (nvidia_smi,),
    root: Path = Path("/"),
) -> Host:
    """Look at the host. Never raises; blocks for milliseconds, or for as long as GPUs are asked for: 6 s at most.

    Args:
        can_offload: Whether the engine may have a part for GPUs.
        engine: The llama-server that would run; asked for its devices if it can offload.
        gpu_sources: Who else is asked for GPUs; of what two say of the same GPU, the first counts.
        root: Where /proc and /sys lie.
    """
    cpuinfo, allowed = parse_cpuinfo(read(root / "proc/cpuinfo")), allowed_cpus(root)
    asks_engine = can_offload and bool(engine)
    answers = _ask_all([*gpu_sources, partial(list_devices, engine)] if asks_engine else gpu_sources)
    said = [answer.gpus for answer in answers if answer.gpus is not None]
    return Host(
        cores=usable_cores(cpuinfo, allowed, root),
        can_offload=can_offload and not (asks_engine and answers[-1].gpus == ()),
        logical_cores=len(allowed) or psutil.cpu_count(),
        cpu_model=cpuinfo.model,
        sockets=cpuinfo.sockets,
        numa_nodes=numa_nodes(root),
        isa=cpuinfo.isa,
        memory_bytes=parse_memory_bytes(read(root / "proc/meminfo")) or psutil.virtual_memory().total,
        gpus=merged(said) if said else None,
        notes=tuple(answer.note for answer in answers if answer.gpus is None),
    )


def _ask_all(sources: Sequence[GpuSource]) -> list[Answer]:
    """Every source's answer, in their order; at the same time, since a driver may take seconds to wake up."""
    if not sources:
        return []
    with ThreadPoolExecutor(len(sources)) as pool:
        return list(pool.map(lambda source: source(), sources))
