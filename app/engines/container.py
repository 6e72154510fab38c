"""RunSpec -> the exact container that runs it, as the body of Docker's API. Pure, so that ``airlab plan`` can print it.

What it may not do is written here once: no network, no capability, no new privilege, nothing to write but its own
socket's folder and a small /tmp, nothing of the host to read but the model's files. Nothing in a request, and nothing
in the manifest but the fields of ``DockerEngineSection``, reaches this body.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from app.devices.gpus import NVIDIA_SMI
from app.engines.base import Fit, RunSpec
from app.engines.command import NO_PROGRAMS, arguments
from app.engines.placement import Placement
from app.errors import EngineError
from app.manifest.engine_sections import DockerEngineSection
from app.units import MIB

LABEL = "dev.airlab"
NOBODY = "65534:65534"
SOCKET_INSIDE = PurePosixPath("/s/llama.sock")
"""Where llama-server serves, as it sees it; it takes a path for a socket by its ending."""
_NOFILE = 4096
_TMP = f"rw,noexec,nosuid,nodev,size={256 * MIB},mode=1777"
_GPU_ORDER = "CUDA_DEVICE_ORDER=PCI_BUS_ID"
"""As nvidia-smi counts, which is how shares are given out; CUDA's own order is by speed."""
_NO_GPUS = "NVIDIA_VISIBLE_DEVICES=void"
"""Where NVIDIA's runtime is Docker's default, an image that says ``all`` would get them unasked."""
_LATER_PARTS = re.compile(r"-00001-of-(\d{5})\.gguf$")

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mount:
    """One place of the host inside a container."""

    source: str
    """As Docker's daemon sees it, which need not be how we do."""
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is on this machine."""

    id: str
    volumes: tuple[str, ...] = ()
    """Places for which Docker would make writable volumes, since the image says so."""


@dataclass(frozen=True, slots=True)
class Order:
    """All that a container follows from."""

    key: str
    run: RunSpec
    name: str
    """The container's name."""
    image: Image
    user: str
    """uid:gid in the container."""
    mounts: tuple[Mount, ...]
    labels: Mapping[str, str]
    placement: Placement
    fit: Fit | None = None
    """What was decided for this start; the run's own numbers where None."""


def section_of(run: RunSpec) -> DockerEngineSection:
    """The engine's section. Raises EngineError where the run is for another engine."""
    if not isinstance(run.engine, DockerEngineSection):
        raise EngineError(f"a run for the engine {run.engine.kind} is none for Docker")
    return run.engine


def places_inside(run: RunSpec) -> dict[Path, PurePosixPath]:
    """Where every file that the run names lies in the container: one folder for each, so that no two can clash.

    Raises:
        EngineError: The model has no file.
    """
    if run.weights is None:
        raise EngineError("it has no file on disk")
    return {file.path: PurePosixPath(f"/m/{number}") / file.path.name for number, file in enumerate(run.files)}


def files_of(run: RunSpec) -> Iterator[tuple[Path, PurePosixPath]]:
    """Every file that llama-server opens, and where it lies inside: of a model in parts, all of them."""
    for path, inside in places_inside(run).items():
        yield path, inside
        if parts := _LATER_PARTS.search(path.name):
            for number in range(2, int(parts[1]) + 1):
                name = f"{path.name[: parts.start()]}-{number:05}-of-{parts[1]}.gguf"
                yield path.with_name(name), inside.with_name(name)


def body_of(order: Order) -> Body:
    """What Docker is asked to create; the names are those of its API, and of ``docker inspect``."""
    run, section, place = order.run, section_of(order.run), order.placement
    # A container that keeps to a node has no other nodes, and llama-server need not look for them.
    run = replace(run, numa="off") if place.keeps_to else run
    fit = order.fit and replace(order.fit, cpus=())
    body = _walled_in(order.image, order.user, order.labels)
    body |= {
        "Entrypoint": ["llama-server"],
        "Cmd": list(arguments(order.key, run, Path(SOCKET_INSIDE), places=places_inside(run), fit=fit)),
        "Env": [*body["Env"], _NO_GPUS if place.gpus == () else _GPU_ORDER],
    }
    body["HostConfig"] |= {
        "PidsLimit": section.pids,
        "Memory": section.memory or 0,
        "MemorySwap": section.memory or 0,
        "CpusetCpus": place.cpus,
        "CpusetMems": place.mems,
        "Mounts": [*map(_mount, order.mounts), *map(_nothing, order.image.volumes)],
        "DeviceRequests": None if place.gpus == () else [_nvidia(place.gpus)],
    }
    return body


def gpu_body(image: Image, user: str, installation: str) -> Body:
    """A container that says which GPUs Docker can hand on: NVIDIA's runtime lays ``nvidia-smi`` into any image."""
    body = _walled_in(image, user, {f"{LABEL}.installation": installation})
    body |= {"Entrypoint": ["nvidia-smi"], "Cmd": list(NVIDIA_SMI)}
    body["HostConfig"]["DeviceRequests"] = [_nvidia(None)]
    return body


def _walled_in(image: Image, user: str, labels: Mapping[str, str]) -> Body:
    """What no container of ours is without."""
    return {
        "Image": image.id,
        "User": user,
        "WorkingDir": "/",
        "Env": ["HOME=/tmp", "CUDA_CACHE_PATH=/tmp/cuda", *(f"{name}={value}" for name, value in NO_PROGRAMS.items())],
        "Tty": False,
        "OpenStdin": False,
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        # Compose lays its own labels on an image that it builds, and would take the container for one of its services.
        "Labels": {"com.docker.compose.project": "", "com.docker.compose.service": "", **labels},
        "HostConfig": {
            "NetworkMode": "none",
            "IpcMode": "private",
            "PidMode": "",
            "UTSMode": "",
            "UsernsMode": "",
            "Privileged": False,
            "ReadonlyRootfs": True,
            "CapAdd": None,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Init": True,
            "PidsLimit": 64,
            "Memory": 512 * MIB,
            "MemorySwap": 512 * MIB,
            "OomScoreAdj": 500,
            "Ulimits": [
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "nofile", "Soft": _NOFILE, "Hard": _NOFILE},
            ],
            "Tmpfs": {"/tmp": _TMP},  # noqa: S108 # the container's own
            "Mounts": list(map(_nothing, image.volumes)),
            "Binds": None,
            "VolumesFrom": None,
            "Devices": [],
            "DeviceRequests": None,
            "PortBindings": {},
            "PublishAllPorts": False,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "AutoRemove": False,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        },
    }


_LIMITS = frozenset({"PidsLimit", "Memory", "MemorySwap", "OomScoreAdj", "CpusetCpus", "CpusetMems"})
"""What a kernel without the part for it may leave out: less fair to others, and no hole in the wall."""


def differences(body: Body, inspected: Mapping[str, Any]) -> list[str]:
    """What a created container has otherwise than it was asked for, by the names of the API; limits are left out.

    A daemon that cannot do something may drop it with no more than a warning; a wall with a hole is not to be used.
    """
    config, host = inspected.get("Config", {}), inspected.get("HostConfig", {})
    wanted = {name: value for name, value in body["HostConfig"].items() if name not in _LIMITS}
    found = [name for name, value in wanted.items() if not _same(value, host.get(name))]
    exact = {name: body[name] for name in ("Entrypoint", "Cmd", "User", "Tty", "OpenStdin")}
    found += [name for name, value in exact.items() if not _same(value, config.get(name))]
    # Beside the test, Docker keeps what the image says of it.
    if (config.get("Healthcheck") or {}).get("Test") != body["Healthcheck"]["Test"]:
        found.append("Healthcheck")
    if inspected.get("Image") != body["Image"]:
        found.append("Image")
    # What is mounted in the end, whoever asked for it: we, or the image.
    targets = {mount["Target"] for mount in body["HostConfig"]["Mounts"]}
    if {mount["Destination"] for mount in inspected.get("Mounts", ())} - targets:
        found.append("Mounts")
    return sorted(set(found))


def _same(asked: Any, found: Any) -> bool:
    """Whether they mean the same: Docker tells nothing, an empty list and an empty mapping apart, and we do not."""
    if not asked and not found:
        return True
    if isinstance(asked, list) and isinstance(found, list) and asked and isinstance(asked[0], dict):
        return len(asked) == len(found) and all(any(_same(a, b) for b in found) for a in asked)
    if isinstance(asked, dict) and isinstance(found, dict):
        return all(_same(asked.get(name), found.get(name)) for name in asked.keys() | found.keys())
    return bool(asked == found)


def _mount(mount: Mount) -> dict[str, Any]:
    # Not Binds: those make a folder, as root, of a source that is missing.
    return {"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}


def _nothing(place: str) -> dict[str, Any]:
    # In the place of a volume that the image asks for: one could be filled until the host's disk is full.
    return {"Type": "tmpfs", "Target": place, "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o555}}


def _nvidia(ids: Sequence[str] | None) -> dict[str, Any]:
    """These GPUs, or all."""
    capabilities = [["gpu", "compute", "utility"]]
    return {
        "Driver": "nvidia",
        "Count": 0 if ids else -1,
        "DeviceIDs": list(ids) if ids else None,
        "Capabilities": capabilities,
        "Options": {},
    }


def host_path(path: Path, mounts: Sequence[Mapping[str, Any]] | None) -> str:
    """Where Docker's daemon finds what we know as ``path``.

    Args:
        path: Absolute, links followed.
        mounts: ``Mounts`` of the container that we run in, by ``docker inspect``; None where we run in none.

    Raises:
        EngineError: We run in a container, and the path is in none of its mounts: it is nowhere on the host.
    """
    if mounts is None:
        return str(path)
    around = [mount for mount in mounts if path.is_relative_to(mount["Destination"])]
    if not around:
        raise EngineError(
            f"{path} is in no mount of AirLab's own container, so no other container can be given it; mount its folder"
        )
    nearest = max(around, key=lambda mount: len(str(mount["Destination"])))
    return str(PurePosixPath(nearest["Source"]) / path.relative_to(nearest["Destination"]))


def spec_digest(run: RunSpec) -> str:
    """Of all of a run but its numbers (layers, context, slots, threads): what two readers of it must agree on."""
    # One list for each part: an adapter is no draft model, whatever the file.
    parts = ((run.weights,), run.adapters, (run.mmproj,), (run.draft_model,))
    files = [[file and [str(file.path), file.size_bytes, file.modified_ns] for file in part] for part in parts]
    told = [run.engine.model_dump(mode="json"), sorted(run.kinds), files, run.draft_tokens, run.cache_type, run.numa]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def installation_of(folder: str) -> str:
    """The name of an installation: of the folder of its sockets as the daemon sees it, which no two share."""
    return hashlib.sha256(folder.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Where:
    """What a container depends on beside its run: where its socket goes, and who connects to it."""

    folder: Path
    """The sockets of this installation, as we see it."""
    mounts: Sequence[Mapping[str, Any]] | None
    """As ``host_path`` has them."""
    user: str
    within: Sequence[Path] | None = None
    """Folders in which the files of models must lie, links followed; None: anywhere."""


def order_of(
    key: str,
    run: RunSpec,
    instance: str,
    *,
    where: Where,
    image: Image,
    placement: Placement,
    fit: Fit | None = None,
) -> Order:
    """The container for this run.

    Raises:
        EngineError: The model has no file, or a file is nowhere on the host, or out of bounds.
    """
    installation = installation_of(host_path(where.folder, where.mounts))
    labels = {"installation": installation, "model": key, "instance": instance, "spec": spec_digest(run)}
    # Links are followed here: the daemon would follow them on the host, where they may lead elsewhere.
    files = [
        Mount(host_path(_real(path, where.within), where.mounts), str(there), read_only=True)
        for path, there in files_of(run)
    ]
    own = Mount(host_path(where.folder / instance, where.mounts), str(SOCKET_INSIDE.parent), read_only=False)
    return Order(
        key,
        run,
        f"airlab-{installation[:8]}-{instance}",
        image,
        where.user,
        (*files, own),
        {f"{LABEL}.{name}": value for name, value in labels.items()},
        placement,
        fit,
    )


def _real(path: Path, within: Sequence[Path] | None) -> Path:
    """Where a model's file really lies. Raises EngineError where that is out of bounds."""
    real = path.resolve()
    if within is not None and not any(real.is_relative_to(folder.resolve()) for folder in within):
        raise EngineError(
            f"{path} is a link that leads out of models/, so no container is given it; put the file there"
        )
    return real
