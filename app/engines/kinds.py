"""Every kind of engine as one: each start goes to the kind that its run names, or to the one that stands in for it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from app.devices.cpu import Node, numa_nodes
from app.engines.base import Engine, Launch, Running
from app.engines.command import launch_for
from app.engines.docker import DockerEngine
from app.engines.launched import LaunchedEngine
from app.engines.native import NativeEngine
from app.errors import EngineAwayError, EngineError, GpuUnavailableError, ImageMissingError
from app.manifest.engine_sections import DockerEngineSection, NativeEngineSection
from app.settings import Settings

log = logging.getLogger("airlab")

_MAY_STAND_IN = (EngineAwayError, ImageMissingError, GpuUnavailableError)
"""What this host lacks. A container that could not be walled in, or that the launcher refused, is no reason to run the
same without a wall."""

_SWEEP_S = 3.0
"""So long a start of the service waits for Docker."""


class ContainerEngine(Protocol):
    """An engine whose llama-servers are containers."""

    async def start(self, launch: Launch) -> Running:
        """As ``Engine.start``."""

    async def sweep(self) -> None:
        """As ``Engine.sweep``."""

    def close(self) -> None:
        """Let go of what it holds; nothing runs any more."""


class Engines(Engine):
    """Native llama-servers and containers; fulfils ``Engine``."""

    def __init__(self, native: NativeEngine, containers: ContainerEngine) -> None:
        """Nothing runs yet."""
        self.native, self.containers = native, containers

    def program(self) -> tuple[str, ...]:
        """What runs natively. Raises EngineError."""
        return self.native.program()

    @property
    def can_offload(self) -> bool:
        """Whether what runs natively may have a part for GPUs."""
        return self.native.can_offload

    @property
    def base_bytes(self) -> int:
        """Memory that what runs natively takes beyond what llama-server itself does."""
        return self.native.base_bytes

    async def start(self, launch: Launch) -> Running:
        """Start it as its run says. Raises EngineError."""
        section = launch.run.engine
        if not isinstance(section, DockerEngineSection):
            return await self.native.start(launch)
        try:
            return await self.containers.start(launch)
        except _MAY_STAND_IN as exc:
            if section.fallback is None:
                raise
            log.warning("%s runs natively, because its container cannot: %s", launch.key, exc.message)
            running = await self.native.start(self._native(launch))
            how = "the host's own engine" if self.can_offload else "CPU"
            running.fallback_because = f"{how}, because {exc.message}"
            return running

    async def sweep(self) -> None:
        """Remove this installation's leftovers; where Docker is away, containers go before the first is started."""
        await self.native.sweep()
        try:
            async with asyncio.timeout(_SWEEP_S):
                await self.containers.sweep()
        except TimeoutError:
            log.warning("containers of a predecessor were not looked for within %g s", _SWEEP_S)
        except EngineError as exc:
            log.info("no containers of a predecessor were looked for: %s", exc.message)

    def close(self) -> None:
        """Let go of what it holds; nothing runs any more."""
        self.containers.close()
        self.native.close()

    def _native(self, launch: Launch) -> Launch:
        """The same model as a child process, without layers for a GPU that it would not have."""
        layers = launch.run.gpu_layers if self.can_offload else 0
        run = replace(launch.run, engine=NativeEngineSection(), gpu_layers=layers)
        fit = replace(launch.fit, gpu_layers=layers) if launch.fit else None
        if fit is not None and layers == 0:
            fit = replace(fit, gpus=(), gpu_ids=(), gpu_shares=())
        return launch_for(launch.key, run, socket=launch.socket, environment=os.environ, fit=fit)


def engines_for(settings: Settings, environment: Mapping[str, str]) -> Engines:
    """What this installation has: containers through the launcher where there is one, else through Docker itself."""
    native = NativeEngine(settings.run_dir, settings.llama_server_path)
    if settings.launcher is not None:
        return Engines(native, LaunchedEngine(settings.launcher))
    return Engines(native, DockerEngine(containers_dir(settings), environment, nodes=host_nodes))


def containers_dir(settings: Settings) -> Path:
    """Where the sockets of containers go that we start ourselves."""
    return settings.run_dir / "c"


def host_nodes() -> tuple[Node, ...]:
    """This host's NUMA nodes."""
    return numa_nodes(Path("/"))
