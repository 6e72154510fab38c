"""What of the host a container gets, in Docker's words: processors, memory of NUMA nodes, GPUs. Pure.

The fleet decides it, with all else of a ``Fit``. Here that is held against what the manifest gives and the host has:
the fit of a start may have come over a socket, and must get nobody more than the manifest's owner wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.devices.cpu import Node
from app.engines.base import Fit
from app.errors import EngineError
from app.manifest.engine_sections import DockerEngineSection

_NO_GPU: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a container runs, in the kernel's lists; empty text for anywhere."""

    cpus: str = ""
    mems: str = ""
    gpus: tuple[str, ...] | None = _NO_GPU
    """Numbers or UUIDs; None for all that Docker can hand on."""

    @property
    def keeps_to(self) -> bool:
        """Whether it keeps to a part of the host: then llama-server sees no other."""
        return bool(self.cpus or self.mems)


def place(section: DockerEngineSection, fit: Fit, nodes: Sequence[Node]) -> Placement:
    """Where a container with this fit goes.

    Args:
        section: Its engine. What that says of processors and nodes holds; then no node can be chosen.
        fit: What was decided for this start.
        nodes: The host's NUMA nodes.

    Raises:
        EngineError: The fit asks for more than the section gives, or for what the host has not.
    """
    gpus = _gpus(section, fit)
    if section.cpuset or section.mems:
        if fit.node is not None:
            raise EngineError(
                f"a container was to keep to NUMA node {fit.node}, and the manifest says cpuset or mems itself"
            )
        return Placement(section.cpuset or "", section.mems or "", gpus)
    if fit.node is None:
        return Placement(gpus=gpus)
    node = next((node for node in nodes if node.number == fit.node and node.cpus), None)
    if node is None:
        raise EngineError(f"a container was to keep to NUMA node {fit.node}, which has no processors on this host")
    return Placement(cpu_list(node.cpus), str(node.number), gpus)


def _gpus(section: DockerEngineSection, fit: Fit) -> tuple[str, ...] | None:
    if fit.gpu_layers == 0 and not fit.gpu_ids:
        return _NO_GPU  # one that it could see would keep a context for it, in memory that was booked for nobody
    if section.gpus == "none":
        given: tuple[str, ...] | None = _NO_GPU
    else:
        given = None if section.gpus == "all" else tuple(section.gpus)
    refused = [name for name in fit.gpu_ids if not (name.isdecimal() if given is None else name in given)]
    if refused:
        allowed = "numbers of GPUs" if given is None else f"gpus: [{', '.join(given)}]"
        raise EngineError(f"a container was to have the GPU {refused[0]}, and the manifest gives it {allowed}")
    return fit.gpu_ids or given


def cpu_list(cpus: Sequence[int]) -> str:
    """The kernel's way to write these numbers, such as ``0-13,28-41``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
