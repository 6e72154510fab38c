"""What an engine is: RunSpec in, a running llama-server out. Knows nothing of requests, chat or other models.

An engine is one file here that fulfils ``Engine``, and its section in ``manifest/engine_sections.py``.
``fleet/instance.py`` is its only caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.manifest.engine_sections import EngineSection
from app.manifest.schema import CacheType, Kind, Numa


@dataclass(frozen=True, slots=True)
class WeightsId:
    """A model file with its size and time: a replaced file is another one."""

    path: Path
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that decides how a llama-server is started. A model restarts when this differs, and for nothing else."""

    engine: EngineSection
    kinds: frozenset[Kind]
    weights: WeightsId | None
    context_length: int | None
    """Tokens, for each slot; None for as many as fit."""
    slots: int | None
    """None for as many as fit."""
    gpu_layers: int | None
    """-1 all, 0 none; None leaves it to llama-server, which offloads what fits."""
    threads: int
    cache_type: CacheType | None
    numa: Numa = "off"
    adapters: tuple[WeightsId, ...] = ()
    """LoRA adapters laid over the weights, each at its full strength."""
    mmproj: WeightsId | None = None
    """The multimodal projector."""
    draft_model: WeightsId | None = None
    """What guesses tokens for this one to check."""
    draft_tokens: int | None = None
    """How many it guesses at once; None for llama-server's own number."""

    @property
    def files(self) -> tuple[WeightsId, ...]:
        """Every file that llama-server is told of, the weights first."""
        return tuple(file for file in (self.weights, *self.adapters, self.mmproj, self.draft_model) if file is not None)

    @property
    def files_bytes(self) -> int:
        """All of them together; of one in several parts the first counts."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Fit:
    """What was decided at a start: the numbers that a RunSpec left open, and where on the host it runs."""

    context_length: int
    """Tokens, for each slot."""
    slots: int
    gpu_layers: int | None
    """-1 all, 0 none; None leaves it to llama-server, where AirLab does not know the GPU's memory."""
    threads: int
    cache_ram_mib: int = 512
    """Memory for old prompts, at most."""
    gpus: tuple[int, ...] = ()
    """Numbers of the GPUs that it may use, in nvidia-smi's order; none given: all that there are."""
    gpu_ids: tuple[str, ...] = ()
    """The same GPUs, as the section of a container's engine calls them."""
    gpu_shares: tuple[int, ...] = ()
    """How the layers are shared among several, as parts of their sum; empty for one."""
    cpus: tuple[int, ...] = ()
    """Logical processors that it is kept to; none given: all."""
    node: int | None = None
    """The NUMA node whose processors those are, by the kernel's number; its memory is booked there."""

    @property
    def busy_threads(self) -> int:
        """Processor threads that it keeps busy, whatever ``--threads`` says: one with all layers on a GPU.

        What is left to the processor then is to look up the embedding of each token, which is done by one thread; the
        others sleep, and do not poll.

        Source: ggml-cpu.c, GET_ROWS in ggml_get_n_tasks, and ggml_graph_compute_poll_for_work.
        """
        return 1 if self.gpu_layers is not None and self.gpu_layers < 0 else self.threads


@dataclass(frozen=True, slots=True)
class Launch:
    """One start, as data: what a RunSpec became for one instance."""

    key: str
    arguments: tuple[str, ...]
    socket: Path
    environment: Mapping[str, str]
    run: RunSpec
    """What it came from; a container has paths of its own, so its arguments are made from this."""
    fit: Fit | None = None
    """What was decided for it; None where no memory was looked at."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a llama-server ended: its exit code (minus the signal's number when killed) and its last log lines."""

    code: int
    last_lines: tuple[str, ...]
    out_of_memory: bool = False
    """True when it was killed because the memory that it may use, its container's or the host's, was used up."""


class Running(Protocol):
    """A llama-server process or container that exists, ready or not."""

    @property
    def socket(self) -> Path:
        """The unix socket it serves on; not always the one that the launch named."""

    @property
    def pid(self) -> int | None:
        """Its process id on this host, where it has one."""

    @property
    def container(self) -> str | None:
        """The id of its container, shortened as Docker shows it, where it runs in one."""

    fallback_because: str | None
    """Why it runs in another way than its profile asks for, where it does; written by who made it so."""

    def activity(self) -> tuple[float, ...] | None:
        """Numbers that grow while it does anything: processor seconds first, then bytes; None when it is gone.

        None as well where nobody can tell now: a daemon that is away.
        """

    def last_lines(self) -> tuple[str, ...]:
        """The end of its log, at most 200 lines."""

    async def exited(self) -> Exit:
        """Wait for its end."""

    async def stop(self, *, grace_s: float) -> bool:
        """End it; True once verified gone, with its socket. Finishes also when the caller is cancelled."""


class Engine(Protocol):
    """A way to run llama-server."""

    def program(self) -> tuple[str, ...]:
        """What is run, before the arguments. Raises EngineError when there is none."""

    async def start(self, launch: Launch) -> Running:
        """Make the process exist; readiness is watched by the caller. Raises EngineError."""

    async def sweep(self) -> None:
        """Remove this installation's leftovers, nobody else's."""
