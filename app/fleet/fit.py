"""Needed against free memory: how a model is started so that it fits, or the arithmetic of the no. Pure.

Here it is decided on which GPUs, on which NUMA node and with how many threads a model runs, whatever runs it: a child
process, and a container within what its section gives it (``bounds.py``).

Where the manifest leaves a number to AirLab, the order is: on one GPU as a whole, else on all of them, else as many
layers as fit there, else none; a context of 8,192 tokens before a shorter one; then up to four slots; then the longest
context that the model was trained for and nine tenths of the memory hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from app.engines.base import Fit
from app.engines.command import CACHE_RAM_MIB, DEFAULT_CONTEXT
from app.fleet.bounds import room_within
from app.fleet.estimate import Demand, Estimate, estimate
from app.fleet.memory import Cramped, Room, gpu_name, node_number
from app.units import MIB, format_bytes

_FIRST_CONTEXTS = (8192, 4096, 2048)
_MOST_SLOTS = 4
_SMALLER = (0.7, 0.8, 0.9, 0.97)
"""Of what ran out of memory, the next start takes so much at most; the first share with which it can start counts."""
_CLOSE = 0.9
"""Beyond this share of what is free a start is tight; what grows by itself stops here."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A way to start a model that fits."""

    fit: Fit
    estimate: Estimate
    warning: str | None = None
    """Where it is tight, what is."""
    shrunk: bool = False
    """Whether it takes less than it would, since a start ran out of memory; then ``warning`` says so."""
    room: Mapping[str, int] = field(default_factory=dict)
    """Bytes that it could have had, by device."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """The arithmetic of a no."""

    message: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class _Seat:
    """A place on the host: which GPUs with how many layers, and which part of its memory."""

    gpus: tuple[int, ...]
    gpu_layers: int | None
    hosts: tuple[str, ...]


def find_smaller_fit(demand: Demand, room: Room, cramped: Cramped) -> Fitted | None:
    """A way to start this model that takes less of what it ran out of; None where the manifest leaves none open."""
    for share in _SMALLER:
        free = {
            device: min(size, int(share * cramped.takes[device])) if cramped.is_of(device) else size
            for device, size in room.free.items()
        }
        if isinstance(fitted := find_fit(demand, replace(room, free=free)), Fitted):
            fit = fitted.fit
            layers = "" if fit.gpu_layers is None or fit.gpu_layers < 0 else f", {fit.gpu_layers} layers on the GPU"
            warning = (
                f"a start of {demand.key} ran out of memory, so it is smaller now: {fit.context_length} tokens of "
                f"context, slots: {fit.slots}{layers}; `airlab unload {demand.key}`, then `airlab load {demand.key}` "
                "tries it in full again"
            )
            return replace(fitted, warning=warning, shrunk=True, room=room.free)
    return None


def find_fit(demand: Demand, room: Room) -> Fitted | Shortfall:
    """The best way to start this model in this room, or in that part of it which its engine may use."""
    room = room_within(demand.run.engine, room)
    ways = [(context, seat) for context in _first_contexts(demand) for seat in _seats(demand, room)]
    for context, seat in ways:
        tried = _try(demand, room, seat, context, demand.run.slots or 1)
        if tried.short_of is None:
            return _grown(demand, room, seat, tried)
    # The last way asks for the least of what is scarce.
    context, seat = ways[-1]
    least = _try(demand, room, seat, context, demand.run.slots or 1)
    return Shortfall(_no(demand, least, room), least.estimate)


@dataclass(frozen=True, slots=True)
class _Tried:
    fit: Fit
    estimate: Estimate
    free: Mapping[str, int]
    """What there is for it, in bytes on each device."""
    short_of: str | None
    """The first device that has too little, if so."""
    tightest: tuple[float, str]
    """The share of its free memory that is needed, and the device."""


def _try(demand: Demand, room: Room, seat: _Seat, context: int, slots: int) -> _Tried:
    """One way to start it; old prompts get half of what is left, up to their bound."""
    threads = demand.run.threads if room.threads is None else min(demand.run.threads, max(1, room.threads))
    free, node = room.free_for(seat.hosts), seat.hosts[0]
    cpus = room.node_cpus.get(node, ()) if len(seat.hosts) == 1 else ()
    if cpus:
        threads = min(threads, max(1, room.node_threads.get(node, len(cpus))))
    bare = Fit(
        *(context, slots, seat.gpu_layers, threads),
        cache_ram_mib=0,
        gpus=seat.gpus,
        gpu_ids=tuple(room.gpu_ids[number] for number in seat.gpus if number in room.gpu_ids),
        gpu_shares=tuple(max(1, free[gpu_name(number)] // MIB) for number in seat.gpus) if len(seat.gpus) > 1 else (),
        cpus=cpus,
        node=node_number(node) if cpus else None,
    )
    needed = estimate(demand, bare, seat.hosts).takes
    left = min((free[host] - needed.get(host, 0) for host in seat.hosts if host in free), default=None)
    spare_mib = CACHE_RAM_MIB if left is None else max(0, left) * len(seat.hosts) // 2 // MIB
    fit = replace(bare, cache_ram_mib=min(CACHE_RAM_MIB, spare_mib))
    made = estimate(demand, fit, seat.hosts)
    judged = {device: size for device, size in made.takes.items() if device in free}
    short_of = next((device for device, size in judged.items() if size > free[device]), None)
    shares_needed = ((needed.get(device, 0) / max(1, free[device]), device) for device in judged)
    return _Tried(fit, made, free, short_of, max(shares_needed, default=(0.0, "")))


def _seats(demand: Demand, room: Room) -> Iterator[_Seat]:
    """Where it could run, the best place first."""
    for gpus, layers in _on_gpus(demand, room):
        yield from (_Seat(gpus, layers, hosts) for hosts in _hosts(demand, room))


def _hosts(demand: Demand, room: Room) -> Iterator[tuple[str, ...]]:
    if demand.run.numa == "per-node":
        # The node on which least is worked first, so that two models lie on two nodes; then that with most room.
        emptiest = sorted(room.node_cpus, key=lambda node: (-room.node_threads.get(node, 0), -room.free.get(node, 0)))
        yield from ((node,) for node in emptiest if room.node_cpus[node])
    yield room.hosts


def _on_gpus(demand: Demand, room: Room) -> Iterator[tuple[tuple[int, ...], int | None]]:
    wanted, gpus = demand.run.gpu_layers, room.gpus
    if wanted == 0 or not gpus:
        # None, or a number where no GPU's memory is known: llama-server sees for itself.
        yield (), wanted
        return
    # The fullest first: whoever fits there leaves the emptier ones to larger models.
    alone = [(number,) for number in sorted(gpus, key=lambda number: room.free[gpu_name(number)])]
    places = [*alone, gpus] if len(gpus) > 1 else alone
    yield from ((place, -1 if wanted is None else wanted) for place in places)
    layout = demand.facts.layout if demand.facts else None
    if wanted is None:
        for layers in range(len(layout.layer_bytes) if layout else 0, 0, -1):
            yield places[-1], layers
        yield (), 0


def _trained_context(demand: Demand) -> int:
    return (demand.facts.context_length if demand.facts else None) or DEFAULT_CONTEXT


def _first_contexts(demand: Demand) -> tuple[int, ...]:
    if demand.run.context_length is not None:
        return (demand.run.context_length,)
    return tuple(dict.fromkeys(max(512, min(tokens, _trained_context(demand))) for tokens in _FIRST_CONTEXTS))


def _grown(demand: Demand, room: Room, seat: _Seat, first: _Tried) -> Fitted:
    """The same place with more slots and a longer context, as far as AirLab may choose them and nothing gets tight."""

    def better(candidates: Iterator[tuple[int, int]], else_: _Tried) -> _Tried:
        for context, slots in candidates:
            tried = _try(demand, room, seat, context, slots)
            if tried.short_of is None and tried.tightest[0] <= _CLOSE:
                return tried
        return else_

    best = first
    if demand.run.slots is None:
        best = better(((first.fit.context_length, slots) for slots in range(_MOST_SLOTS, 1, -1)), best)
    if demand.run.context_length is None:
        best = better(((tokens, best.fit.slots) for tokens in _longer(demand, best.fit.context_length)), best)
    share, device = best.tightest
    warning = None
    if share > _CLOSE:
        warning = f"{demand.key} takes {share:.0%} of what is free on {device}: {best.estimate.words(device)}"
    return Fitted(best.fit, best.estimate, warning, room=room.free)


def _longer(demand: Demand, tokens: int) -> Iterator[int]:
    """Halves of the trained context, rounded to what llama-server gives anyway, down to one that is known to fit."""
    context = _trained_context(demand)
    while context > tokens:
        yield context // 256 * 256
        context //= 2


def _no(demand: Demand, tried: _Tried, room: Room) -> str:
    device = tried.short_of or ""
    free = tried.free.get(device, 0)
    # What its container may have is said by the manifest, and not by the host.
    is_walled_in = free < room.free.get(device, free + 1)
    ways = [
        "more `memory` for its engine" if is_walled_in else "",
        "a shorter context_length" if demand.run.context_length is not None else "",
        "fewer parallel" if (demand.run.slots or 1) > 1 else "",
        "cache_type: q8_0" if demand.run.cache_type in {None, "f16", "bf16", "f32"} else "",
        "fewer n_gpu_layers" if device.startswith("GPU") else "",
        "no draft_model" if demand.draft is not None else "",
        "a smaller quantisation",
    ]
    there = f"{format_bytes(free)} is {'all that its container may take there' if is_walled_in else 'there for it'}"
    return (
        f"{demand.key} does not fit: on {device} it needs {tried.estimate.words(device)}, and {there}; "
        f"to fix: {', '.join(filter(None, ways))}"
    )
