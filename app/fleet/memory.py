"""How much memory there is for one more model: what is free now, less what others were promised and do not hold yet.

Pure; who reads the memory is ``meter.py``. Devices go by name: ``RAM``, or ``node 0`` and on, and ``GPU 0`` and on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.devices.resident import Resident
from app.fleet.estimate import RAM, SOME_GPU

_GPU, _NODE = "GPU ", "node "
_CLEARLY_MORE = 0.25
"""Of what a start had been predicted to take: with so much more room, a prediction that was a little off holds."""


def gpu_name(number: int) -> str:
    """How a GPU is called here, by nvidia-smi's number."""
    return f"{_GPU}{number}"


def node_number(host: str) -> int:
    """The kernel's number of a NUMA node that is called so."""
    return int(host.removeprefix(_NODE))


def hosts_in(takes: Iterable[str]) -> tuple[str, ...]:
    """Of these devices, those that are the host's memory."""
    return tuple(device for device in takes if not device.startswith(SOME_GPU))


@dataclass(frozen=True, slots=True)
class Reading:
    """The host's memory at one moment."""

    at_s: float
    """On the monotonic clock, when it was asked for."""
    free: Mapping[str, int]
    """Bytes that a new process could have, by device; a device of which nobody knows is not in it."""
    residents: Mapping[int, Resident] = field(default_factory=dict)
    """What engines had in memory then, by the numbers of their instances."""
    node_cpus: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Logical processors of each NUMA node in ``free``; empty where RAM is one."""
    gpu_uuids: Mapping[int, str] = field(default_factory=dict)
    """NVIDIA's name for each GPU in ``free``, by its number."""
    sizes: frozenset[str] = frozenset()
    """Devices in ``free`` of which only the size is known: nothing is off it that engines have there."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What models may take together, in bytes; None for all that is free."""

    vram: int | None = None
    ram: int | None = None

    def of(self, device: str, free: Mapping[str, int]) -> int | None:
        """The part of it on one device: each GPU has its own, nodes share alike."""
        if device.startswith(_GPU):
            return self.vram
        return None if self.ram is None else self.ram // max(1, len(hosts_in(free)))


@dataclass(frozen=True, slots=True)
class Booking:
    """What one instance was promised."""

    takes: Mapping[str, int]
    """Bytes on each device; booked when it was started, returned when it is verified gone."""
    held: Mapping[str, int]
    """What of that the free memory is less by already."""
    threads: int = 0
    """Processor threads that it keeps busy."""


@dataclass(frozen=True, slots=True)
class Cramped:
    """A start that ran out of memory, whatever had been predicted; the next one is to do better."""

    device: Literal["GPU", "host"]
    """Whose memory it was."""
    takes: Mapping[str, int]
    """What had been predicted, in bytes on each device; empty where memory is not looked at."""
    others: int
    """Engines that were there beside it."""
    at_s: float
    """On the monotonic clock, when that was."""
    room: Mapping[str, int] = field(default_factory=dict)
    """Bytes that it could have had then, by device."""

    def is_of(self, device: str) -> bool:
        """Whether what was predicted for this device was too much."""
        return device in self.takes and device.startswith(_GPU) == (self.device == "GPU")

    def has_more_in(self, room: Mapping[str, int]) -> bool:
        """Whether there is clearly more now on all that it ran out of; False where nobody knows."""
        devices = [device for device in self.takes if self.is_of(device)]
        return bool(devices) and all(
            device in self.room and room.get(device, 0) >= self.room[device] + int(_CLEARLY_MORE * self.takes[device])
            for device in devices
        )


@dataclass(frozen=True, slots=True)
class Room:
    """What one more model may take."""

    free: Mapping[str, int]
    node_cpus: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int | None = None
    """Processor threads that no other engine has; None for as many as it likes."""
    working: int = 0
    """Processor threads that other engines have."""
    node_threads: Mapping[str, int] = field(default_factory=dict)
    """Processor threads that are left on each node; of one that is not in it, nobody counts them."""
    gpu_ids: Mapping[int, str] = field(default_factory=dict)
    """What a GPU is called elsewhere: its UUID, or what the section of a container's engine calls it."""
    limit: int | None = None
    """Most of the host's memory that one container may take, in bytes; None for no bound of its own."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs whose memory is known."""
        return tuple(sorted(int(name.removeprefix(_GPU)) for name in self.free if name.startswith(_GPU)))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host's memory: RAM, or its nodes."""
        return tuple(sorted(self.node_cpus)) or (RAM,)

    def free_for(self, hosts: tuple[str, ...]) -> Mapping[str, int]:
        """What is free for one that shares its memory alike among these parts of the host's."""
        if self.limit is None:
            return self.free
        share = self.limit // max(1, len(hosts))
        return {**self.free, **{host: min(share, self.free.get(host, share)) for host in hosts}}


@dataclass(frozen=True, slots=True)
class Share:
    """One device's memory as models have it, for pages."""

    device: str
    limit_bytes: int
    """What all models could have of it together: its free memory, and theirs, within the budget."""
    promised_bytes: int
    """What those that run were promised, whether they hold it by now or not."""


def shares_of(reading: Reading, budget: Budget, bookings: Iterable[Booking]) -> list[Share]:
    """How every device is shared, by the last reading."""
    booked = tuple(bookings)
    together = room_for(reading, budget, (), booked).free
    return [
        Share(device, together[device], sum(booking.takes.get(device, 0) for booking in booked))
        for device in sorted(together)
    ]


def room_for(
    reading: Reading,
    budget: Budget,
    staying: Iterable[Booking],
    leaving: Iterable[Booking] = (),
    *,
    all_threads: int | None = None,
) -> Room:
    """The room beside those that stay, once those that leave are gone. Never less than nothing.

    A mapped file counts as free for the kernel, although its engine reads it all the time: so it is taken off here.

    Args:
        reading: The host's memory.
        budget: What of it models may take together.
        staying: What those were promised that stay.
        leaving: What those have that leave.
        all_threads: Processor threads for all engines together; None for no bound.
    """
    stays, leaves = tuple(staying), tuple(leaving)

    def free_on(device: str, free_bytes: int) -> int:
        back = sum(booking.held.get(device, 0) for booking in leaves)
        due = sum(max(0, booking.takes.get(device, 0) - booking.held.get(device, 0)) for booking in stays)
        limit = budget.of(device, reading.free)
        booked = sum(booking.takes.get(device, 0) for booking in stays)
        room_bytes = free_bytes - booked if device in reading.sizes else free_bytes + back - due
        return max(0, room_bytes if limit is None else min(room_bytes, limit - booked))

    free = {device: free_on(device, size) for device, size in reading.free.items()}
    working = sum(booking.threads for booking in stays)
    return Room(
        free,
        reading.node_cpus,
        # One that is alone has what the manifest writes for it.
        threads=None if all_threads is None or not working else all_threads - working,
        working=working,
        node_threads={} if all_threads is None else _left_on_nodes(reading.node_cpus, stays, all_threads),
        gpu_ids=reading.gpu_uuids,
    )


def _left_on_nodes(nodes: Iterable[str], stays: Iterable[Booking], all_threads: int) -> Mapping[str, int]:
    """Threads that each node can still work with; one that lies on several nodes works on each of them.

    A node's logical processors are more than its cores, and threads beyond those only wait for each other.
    """
    names = tuple(nodes)
    left = dict.fromkeys(names, max(1, all_threads // max(1, len(names))))
    for booking in stays:
        on = [host for host in hosts_in(booking.takes) if host in left]
        for host in on:
            left[host] -= math.ceil(booking.threads / len(on))
    return left
