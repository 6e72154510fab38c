"""Which processors and which memory a container gets on a host with several NUMA nodes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.devices.cpu import Node
from app.engines.base import RunSpec
from app.manifest.schema import DockerEngineSection

_WEIGHTS_SHARE = 0.8
"""A model keeps to one node if its weights take no more of the node's memory than this: its context needs some, too."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a container runs, in the kernel's lists; empty text for anywhere."""

    cpus: str = ""
    mems: str = ""
    node: int | None = None
    """The node that it keeps to."""
    spreads: bool = False
    """llama-server spreads its threads over all nodes by itself."""


def place(
    run: RunSpec,
    section: DockerEngineSection,
    nodes: Sequence[Node],
    taken: Sequence[int],
    *,
    kept_to: Sequence[int] = (),
) -> Placement:
    """Where this run goes.

    Args:
        run: What is to be run.
        section: Its engine; what that says of processors and memory wins.
        nodes: The host's NUMA nodes, in the kernel's order.
        taken: The node of every container that keeps to one: the emptiest is chosen, of equal ones the first.
        kept_to: The processors of the node whose memory was booked for it; empty where none was.
    """
    if section.cpuset or section.mems:
        return Placement(section.cpuset or "", section.mems or "")
    if run.numa == "distribute":
        return Placement(spreads=True)
    if run.numa != "per-node" or len(nodes) < 2:
        return Placement()
    booked = [number for number, node in enumerate(nodes) if kept_to and tuple(kept_to) == node.cpus]
    if booked:
        return Placement(cpu_list(kept_to), str(booked[0]), node=booked[0])
    size_bytes = run.files_bytes
    fitting = [
        number
        for number, node in enumerate(nodes)
        if node.cpus and (node.memory_bytes is None or size_bytes <= node.memory_bytes * _WEIGHTS_SHARE)
    ]
    if not fitting:
        return Placement(spreads=True)
    number = min(fitting, key=lambda each: (taken.count(each), each))
    return Placement(cpu_list(nodes[number].cpus), str(number), node=number)


def cpu_list(cpus: Sequence[int]) -> str:
    """The kernel's way to write these numbers, such as ``0-13,28-41``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
