"""GPUs, as those programs tell of them that see them: ``nvidia-smi``, and llama-server's own ``--list-devices``.

A source is a callable that returns an Answer; another one, such as Docker's daemon, joins by being handed in.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from app.devices.ask import ask, printable
from app.units import MIB

_WSL_FOLDER = "/usr/lib/wsl/lib"
"""Where Windows lays nvidia-smi for its Linux guests; not on every PATH there."""

NVIDIA_SMI = ("--query-gpu=name,memory.total,compute_cap,driver_version", "--format=csv,noheader,nounits")
"""What nvidia-smi is asked, for ``parse_nvidia_smi``."""

_DEVICE = re.compile(r"  (\S+?)\d*: (.+?)(?: \((\d+) MiB, \d+ MiB free\))?")
_CUDA_DEVICE = re.compile(r"^  Device (\d+): (.+?), compute capability (\d+\.\d+),", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as far as it is known."""

    name: str
    memory_bytes: int | None = None
    compute_capability: float | None = None
    """NVIDIA's number for what it can: 7.5 for sm_75, 12.0 for sm_120."""
    driver: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one source says."""

    source: str
    gpus: tuple[Gpu, ...] | None
    """None: it could not say. Empty: there is none."""
    why_not: str = ""

    @property
    def note(self) -> str:
        """Why it could not say, in words."""
        return f"{self.source} {self.why_not}"


GpuSource = Callable[[], Answer]


def nvidia_smi() -> Answer:
    """NVIDIA's GPUs of this host, through the driver's own program."""
    source = "nvidia-smi"
    program = shutil.which(source, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_WSL_FOLDER}")
    if program is None:
        return Answer(source, None, "is not installed")
    told = ask([program, *NVIDIA_SMI])
    if told.text is None:
        return Answer(source, None, told.why_not)
    gpus = parse_nvidia_smi(told.text)
    return Answer(source, gpus, "" if gpus is not None else "gave no answer that AirLab can read")


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...] | None:
    """Its rows; None where a line is none. What it has no figure for, such as ``[N/A]``, is None."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines == ["No devices were found"]:
        return ()
    rows = [line.rsplit(", ", 3) for line in lines]
    if any(len(row) != 4 for row in rows):
        return None
    return tuple(
        Gpu(
            printable(name),
            int(mib) * MIB if mib.isdecimal() else None,
            _capability(capability),
            None if driver.startswith("[") else printable(driver),
        )
        for name, mib, capability, driver in rows
    )


def list_devices(engine: Sequence[str]) -> Answer:
    """The GPUs that this llama-server can use, through whatever it was built with."""
    source = "llama-server --list-devices"
    told = ask([*engine, "--list-devices"])
    if told.text is None:
        return Answer(source, None, told.why_not)
    gpus = parse_list_devices(told.text)
    return Answer(source, gpus, "" if gpus is not None else "gave no answer that AirLab can read")


def parse_list_devices(text: str) -> tuple[Gpu, ...] | None:
    """Each GPU once, though several backends (CUDA0, Vulkan0) may list it; None where there is no list.

    Source: llama.cpp's common/arg.cpp prints the list, ggml-cuda.cu the compute capability when it looks for devices.
    """
    log, header, listed = text.partition("Available devices:\n")
    if not header:
        return None
    capabilities = {(number, name): _capability(value) for number, name, value in _CUDA_DEVICE.findall(log + listed)}
    by_backend: dict[str, list[Gpu]] = {}
    for found in filter(None, map(_DEVICE.fullmatch, listed.splitlines())):
        backend, name, mib = found.groups()
        # A library for matrices on the processor is listed, too.
        if backend in {"BLAS", "CPU"}:
            continue
        gpus = by_backend.setdefault(backend, [])
        capability = capabilities.get((str(len(gpus)), name)) if backend == "CUDA" else None
        gpus.append(Gpu(printable(name), int(mib) * MIB if mib and int(mib) else None, capability))
    return merged(by_backend.values())


def _capability(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,3}\.\d{1,2}", text) else None


def merged(answers: Iterable[Iterable[Gpu]]) -> tuple[Gpu, ...]:
    """All that were seen. Where a later answer names a GPU that an earlier one did, it fills in what that left open."""
    seen: list[Gpu] = []
    for answer in answers:
        # Two cards of one name in one answer are two cards.
        free = list(range(len(seen)))
        for gpu in answer:
            same = next((index for index in free if seen[index].name.casefold() == gpu.name.casefold()), None)
            if same is None:
                seen.append(gpu)
            else:
                free.remove(same)
                seen[same] = _filled(seen[same], gpu)
    return tuple(seen)


def _filled(known: Gpu, more: Gpu) -> Gpu:
    return Gpu(
        known.name,
        more.memory_bytes if known.memory_bytes is None else known.memory_bytes,
        more.compute_capability if known.compute_capability is None else known.compute_capability,
        more.driver if known.driver is None else known.driver,
    )
