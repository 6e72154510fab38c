"""What of a host's room a container may use: what the section of its engine gives it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from app.devices.cpu import parse_cpu_list
from app.fleet.memory import Room, gpu_name, node_number
from app.fleet.spec import ModelSpec
from app.manifest.engine_sections import DockerEngineSection, EngineSection


def room_within(engine: EngineSection, room: Room) -> Room:
    """The room as a model of this engine has it; a child process has all of it, and GPUs by number alone.

    Where the section names processors or nodes itself, no node is chosen any more: what is left of ``node_cpus`` says
    where its memory lies, without processors.
    """
    if not isinstance(engine, DockerEngineSection):
        return replace(room, gpu_ids={})
    ids = gpu_ids_within(engine, room)
    kept_out = {gpu_name(number) for number in room.gpus} - {gpu_name(number) for number in ids}
    return replace(
        room,
        free={device: size for device, size in room.free.items() if device not in kept_out},
        node_cpus=_nodes_within(engine, room),
        threads=_threads_within(engine, room),
        gpu_ids=ids,
        limit=engine.memory,
    )


def gpu_ids_within(engine: DockerEngineSection, room: Room) -> Mapping[int, str]:
    """What the section calls the GPUs that it names, by their numbers; those of which nobody knows are left out."""
    if engine.gpus == "all":
        return {number: str(number) for number in room.gpus}
    named = {} if engine.gpus == "none" else {name.casefold(): name for name in engine.gpus}
    found = {number: (str(number), room.gpu_ids.get(number, "").casefold()) for number in room.gpus}
    return {number: named[name] for number, names in found.items() for name in names if name in named}


def _nodes_within(engine: DockerEngineSection, room: Room) -> Mapping[str, tuple[int, ...]]:
    if engine.cpuset is None and engine.mems is None:
        return room.node_cpus
    mems = None if engine.mems is None else parse_cpu_list(engine.mems)
    return {name: () for name in room.node_cpus if mems is None or node_number(name) in mems}


def _threads_within(engine: DockerEngineSection, room: Room) -> int | None:
    """As the room has it; those who may use few processors only share them with everybody who works."""
    if engine.cpuset is None:
        return room.threads
    left = len(set(parse_cpu_list(engine.cpuset))) - room.working
    return left if room.threads is None else min(left, room.threads)


def by_node(specs: Iterable[ModelSpec]) -> bool:
    """Whether the memory of each NUMA node has to be known for any of these models."""
    return any(spec.run.numa == "per-node" or _names_nodes(spec.run.engine) for spec in specs)


def _names_nodes(engine: EngineSection) -> bool:
    return isinstance(engine, DockerEngineSection) and engine.mems is not None
