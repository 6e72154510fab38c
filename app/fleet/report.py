"""A fit as people and programs read it: the arithmetic, item by item, beside what is free. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.fleet.bounds import room_within
from app.fleet.estimate import Demand, Estimate
from app.fleet.fit import Fitted, Shortfall, find_fit
from app.fleet.memory import Room, hosts_in
from app.units import format_bytes


def fit_report(demand: Demand, beside: Room, alone: Room, *, measured_bytes: int | None = None) -> dict[str, Any]:
    """Whether and how a model would start.

    ``fits`` is null where the file is not here, so that nobody knows its size; ``estimate`` is ``file size only`` where
    its header was not read.

    Args:
        demand: The model.
        beside: The room beside what is loaded.
        alone: The room if nothing else were: what decides whether it is refused.
        measured_bytes: What it really took, where it runs.
    """
    if not demand.weights_bytes:
        message = f"the file of {demand.key} is not on disk, so nobody knows what it takes"
        return {"model_key": demand.key, "fits": None, "message": message}
    found, room = find_fit(demand, beside), beside
    fits_beside = isinstance(found, Fitted)
    if not fits_beside:
        found, room = find_fit(demand, alone), alone
    # A container's own bound may be less than what the host has.
    free = room_within(demand.run.engine, room).free_for(hosts_in(found.estimate.takes))
    later = "" if fits_beside or isinstance(found, Shortfall) else ", once other models have made room"
    report: dict[str, Any] = {
        "model_key": demand.key,
        "fits": isinstance(found, Fitted),
        "fits_beside_others": fits_beside,
        "message": _message(demand, found, free) + later,
        "estimate": "from the header" if found.estimate.knows_shape else "file size only",
        "correction": round(demand.ratio, 3),
        "measured_bytes": measured_bytes,
        "devices": list(_devices(found.estimate, free)),
        "items": [
            {"what": item.what, "device": item.device, "bytes": item.size_bytes, "grows": item.grows}
            for item in found.estimate.items
        ],
    }
    return {**report, **_numbers(found)} if isinstance(found, Fitted) else report


def _numbers(found: Fitted) -> Mapping[str, Any]:
    fit = found.fit
    return {
        "context_length": fit.context_length,
        "parallel": fit.slots,
        "n_gpu_layers": fit.gpu_layers,
        "n_threads": fit.threads,
        "gpus": list(fit.gpus),
        "cpus": list(fit.cpus),
    }


def _devices(estimate: Estimate, free: Mapping[str, int]) -> Iterator[Mapping[str, Any]]:
    for device, size_bytes in estimate.takes.items():
        yield {"device": device, "needed_bytes": size_bytes, "free_bytes": free.get(device)}


def _message(demand: Demand, found: Fitted | Shortfall, free: Mapping[str, int]) -> str:
    if isinstance(found, Shortfall):
        return found.message
    if found.warning is not None:
        return found.warning
    parts = [
        f"{format_bytes(size)} of {format_bytes(free[device])} on {device}"
        if device in free
        else f"{format_bytes(size)} on {device}, of which nobody knows what is free"
        for device, size in found.estimate.takes.items()
    ]
    return f"{demand.key} fits: {', '.join(parts)}"


def arithmetic_lines(found: Fitted | Shortfall) -> Iterator[str]:
    """One line for each device."""
    for device in found.estimate.takes:
        yield f"{device}: {found.estimate.words(device)}"
