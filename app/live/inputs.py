"""Takes the inputs of a snapshot as they are on this machine now."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from app.devices.gpus import GpuSource, nvidia_smi
from app.devices.probe import Host, probe_host
from app.engines.launched import gpus_through
from app.engines.native import NativeEngine
from app.fleet.meter import HostMeter, Memory
from app.live.guards import policy_for
from app.live.resolve import Inputs, resolve
from app.live.snapshot import Snapshot
from app.manifest.load import Loaded
from app.settings import Settings
from app.weights.inventory import HeaderCache
from app.weights.look import look_for_weights


def probe(engine: NativeEngine, launcher: Path | None = None) -> Host:
    """This machine, its GPUs as far as the engine that would run can use them. Raises EngineError without an engine.

    Where there is a launcher, it is asked, too: in a container of our own we would see no GPU.
    """
    sources: list[GpuSource] = [nvidia_smi]
    if launcher is not None:
        sources.append(partial(gpus_through, launcher))
    return probe_host(can_offload=engine.can_offload, engine=engine.program(), gpu_sources=sources)


def host_memory(host: Host, settings: Settings, *, base_bytes: int) -> Memory:
    """How the fleet looks at this machine's memory; one core is left to everything else."""
    # Those of which the driver's own program told, here or through the launcher, in the order of its numbers. One that
    # shares the host's memory has no size.
    told = [gpu for gpu in host.gpus or () if gpu.driver is not None]
    cards = {number: gpu.memory_bytes for number, gpu in enumerate(told) if gpu.memory_bytes}
    meter = HostMeter(has_gpus=host.gpus != (), cards=cards)
    return Memory(meter, max(1, host.cores - 1), base_bytes, settings.state / "memory.json")


def first_inputs(
    loaded: Loaded,
    settings: Settings,
    host: Host,
    *,
    closed: str | None = None,
    headers: HeaderCache | None = None,
    read_headers: bool = True,
) -> Inputs:
    """The inputs as they are before anything was changed by request.

    Args:
        loaded: The manifest.
        settings: The environment.
        host: This machine.
        closed: Why no tool may run whatever the manifest says, if so.
        headers: What is known of model files.
        read_headers: Whether to look into those that are not known.

    Raises:
        ManifestProblems: The policy cannot come into force.
    """
    weights = look_for_weights(loaded.manifest, settings, headers, read_headers=read_headers)
    policy = policy_for(
        loaded, settings.home, settings.state, folder=settings.folder, manifest=settings.manifest, closed=closed
    )
    return Inputs(loaded, settings, host, weights, policy)


def first_snapshot(loaded: Loaded, settings: Settings, host: Host) -> Snapshot:
    """What a start would put in force. Raises as ``resolve`` does."""
    return resolve(first_inputs(loaded, settings, host), generation=1)
