"""Reads the host's memory for the fleet, and what its engines keep of it. The one place in ``fleet`` that looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.devices.free import free_nodes, free_ram, free_vram
from app.devices.resident import Resident, resident
from app.engines.base import WeightsId
from app.errors import WeightsBrokenError
from app.fleet.estimate import RAM
from app.fleet.memory import Reading, gpu_name
from app.weights.gguf import GgufFacts, read_header

_OF_A_CARD = 15 / 16
"""What of a GPU whose free memory nobody can say counts as free: its driver keeps some, and so does a desktop."""


class Meter(Protocol):
    """Whoever can say how much memory there is."""

    async def read(self, pids: Mapping[int, int], *, by_node: bool) -> Reading:
        """The memory now, and that of these processes, by the number of their instance."""

    async def headers(self, files: Collection[WeightsId]) -> Mapping[WeightsId, GgufFacts]:
        """What these files say of themselves; those that are broken say nothing."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a fleet needs for looking at memory."""

    meter: Meter
    threads: int | None = None
    """Processor threads for all engines together; None for no bound."""
    base_bytes: int = 0
    """What the engine adds to what llama-server itself takes."""
    file: Path | None = None
    """Where it is kept what models really took."""


class HostMeter:
    """This host; fulfils ``Meter``."""

    def __init__(self, *, has_gpus: bool, cards: Mapping[int, int] | None = None, root: Path = Path("/")) -> None:
        """Nothing is read yet.

        Args:
            has_gpus: Whether the engine could use a GPU: else none is asked for.
            cards: The size of each of NVIDIA's GPUs, in bytes by its number, for where nobody can say what is free
                there: a service in a container of its own sees none.
            root: Where /proc and /sys lie.
        """
        self._has_gpus, self._cards, self._root = has_gpus, cards or {}, root

    async def read(self, pids: Mapping[int, int], *, by_node: bool) -> Reading:
        """Everything at one moment, in a thread: milliseconds, or up to 6 s where a GPU's driver sleeps."""
        return await asyncio.to_thread(self._read, dict(pids), by_node)

    async def headers(self, files: Collection[WeightsId]) -> Mapping[WeightsId, GgufFacts]:
        """About 20 ms for each."""
        return await asyncio.to_thread(_headers, tuple(files))

    def _read(self, pids: Mapping[int, int], by_node: bool) -> Reading:
        at_s = time.monotonic()
        nodes = free_nodes(self._root) if by_node else {}
        free = {name: size for name, (size, _) in nodes.items()}
        if not nodes and (ram := free_ram(self._root)) is not None:
            free[RAM] = ram
        gpus = free_vram() if self._has_gpus else ()
        free |= {gpu_name(gpu.number): gpu.free_bytes for gpu in gpus}
        sizes = {} if gpus else {gpu_name(n): int(size * _OF_A_CARD) for n, size in self._cards.items()}
        found = {number: resident(pid, self._root) for number, pid in pids.items()}
        residents: dict[int, Resident] = {number: each for number, each in found.items() if each}
        cpus = {name: cpus for name, (_, cpus) in nodes.items()}
        uuids = {gpu.number: gpu.uuid for gpu in gpus}
        return Reading(at_s, free | sizes, residents, cpus, uuids, frozenset(sizes))


def _headers(files: tuple[WeightsId, ...]) -> Mapping[WeightsId, GgufFacts]:
    facts = {}
    for file in files:
        try:
            facts[file] = read_header(file.path)
        except WeightsBrokenError:
            continue  # the inventory says so, in its own time; to start it is then refused
    return facts
