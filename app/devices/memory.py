"""What is used of the host's memory and processors now, in words; of GPUs through ``nvidia-smi`` where there is one."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import psutil

from app.devices.ask import ask, printable
from app.units import MIB, format_bytes

_SMI = ("--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits")
_SAMPLE_S = 0.1


async def memory_words(engine_pids: Iterable[int]) -> str:
    """Processor and memory of host, service and engines, such as ``host 12 % CPU, 3.1 GiB of 31.2 GiB; ...``.

    Takes a tenth of a second, over which processor time is measured; 100 % is one core, of the host all of them.
    """
    memory = psutil.virtual_memory()
    parts = {"service": _processes([os.getpid()]), "engines": _processes(engine_pids)}
    for process in (None, *chain.from_iterable(parts.values())):
        _cpu_percent(process)
    await asyncio.sleep(_SAMPLE_S)
    host = f"host {_cpu_percent(None):.0f} % CPU, {format_bytes(memory.total - memory.available)} of "
    shown = [host + format_bytes(memory.total)]
    for name, processes in parts.items():
        cpu, rss = sum(map(_cpu_percent, processes)), sum(map(_resident_bytes, processes))
        shown.append(f"{name} {cpu:.0f} % CPU, {format_bytes(rss)}")
    return "; ".join(shown)


def _processes(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _cpu_percent(process: psutil.Process | None) -> float:
    """Since this was last asked of the same object; None is the host."""
    try:
        return psutil.cpu_percent() if process is None else float(process.cpu_percent())
    except psutil.Error:
        return 0.0


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


@dataclass(frozen=True, slots=True)
class Vram:
    """The memory of one GPU."""

    gpu: str
    used_bytes: int
    total_bytes: int


def read_vram() -> tuple[tuple[Vram, ...], str]:
    """The memory of NVIDIA's GPUs now, and why there is nothing where there is nothing. Blocks for 6 s at most."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), "no GPU seen (no nvidia-smi)"
    told = ask([program, *_SMI])
    if told.text is None:
        return (), f"GPU memory unknown: nvidia-smi {told.why_not}"
    return parse_vram(told.text), "no GPU seen"


def parse_vram(text: str) -> tuple[Vram, ...]:
    """The rows of nvidia-smi; one without figures, as of a GPU that shares the host's memory, is left out."""
    rows = [line.rsplit(", ", 2) for line in text.splitlines()]
    return tuple(
        Vram(printable(name), int(used) * MIB, int(total) * MIB)
        for name, used, total in (row for row in rows if len(row) == 3)
        if used.isdecimal() and total.isdecimal()
    )


async def gpu_memory() -> str:
    """Each GPU with its memory in use; says so where none can be seen."""
    cards, why_none = await asyncio.to_thread(read_vram)
    shown = (f"{card.gpu}: {format_bytes(card.used_bytes)} of {format_bytes(card.total_bytes)}" for card in cards)
    return "; ".join(shown) or why_none
