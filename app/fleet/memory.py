"""How much memory there is for one more model: what is free now, less what others were promised and do not hold yet.

Pure; who reads the memory is ``meter.py``. Devices go by name: ``RAM``, or ``node 0`` and on, and ``GPU 0`` and on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.devices.resident import Resident
from app.fleet.estimate import RAM

_GPU = "GPU "


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


@dataclass(frozen=True, slots=True)
class Budget:
    """What models may take together, in bytes; None for all that is free."""

    vram: int | None = None
    ram: int | None = None

    def of(self, device: str, free: Mapping[str, int]) -> int | None:
        """The part of it on one device: each GPU has its own, nodes share alike."""
        if device.startswith(_GPU):
            return self.vram
        hosts = sum(not name.startswith(_GPU) for name in free)
        return None if self.ram is None else self.ram // max(1, hosts)


@dataclass(frozen=True, slots=True)
class Booking:
    """What one instance was promised."""

    takes: Mapping[str, int]
    """Bytes on each device; booked when it was started, returned when it is verified gone."""
    held: Mapping[str, int]
    """What of that the free memory is less by already."""


@dataclass(frozen=True, slots=True)
class Cramped:
    """A start that ran out of memory, whatever had been predicted; the next one is to do better."""

    device: Literal["GPU", "host"]
    """Whose memory it was."""
    takes: Mapping[str, int]
    """What had been predicted, in bytes on each device; empty where memory is not looked at."""
    others: int
    """Engines that were there beside it."""

    def is_of(self, device: str) -> bool:
        """Whether what was predicted for this device was too much."""
        return device in self.takes and device.startswith(_GPU) == (self.device == "GPU")


@dataclass(frozen=True, slots=True)
class Room:
    """What one more model may take."""

    free: Mapping[str, int]
    node_cpus: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int | None = None
    """Processor threads that no other engine has; None for as many as it likes."""
    node_threads: int | None = None
    """Processor threads that one node can work with."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs whose memory is known."""
        return tuple(sorted(int(name.removeprefix(_GPU)) for name in self.free if name.startswith(_GPU)))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host's memory: RAM, or its nodes."""
        return tuple(sorted(self.node_cpus)) or (RAM,)


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
    threads: int | None = None,
    all_threads: int | None = None,
) -> Room:
    """The room beside those that stay, once those that leave are gone. Never less than nothing.

    A mapped file counts as free for the kernel, although its engine reads it all the time: so it is taken off here.
    """
    stays, leaves = tuple(staying), tuple(leaving)

    def free_on(device: str, free_bytes: int) -> int:
        back = sum(booking.held.get(device, 0) for booking in leaves)
        due = sum(max(0, booking.takes.get(device, 0) - booking.held.get(device, 0)) for booking in stays)
        limit = budget.of(device, reading.free)
        booked = sum(booking.takes.get(device, 0) for booking in stays)
        room_bytes = free_bytes + back - due
        return max(0, room_bytes if limit is None else min(room_bytes, limit - booked))

    free = {device: free_on(device, size) for device, size in reading.free.items()}
    # A node's logical processors are more than its cores, and threads beyond those only wait for each other.
    node_threads = None if all_threads is None else max(1, all_threads // max(1, len(reading.node_cpus)))
    return Room(free, reading.node_cpus, threads, node_threads)
