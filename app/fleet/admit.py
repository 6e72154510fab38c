"""Whether one more model may start, by memory: beside what stays, and once others are gone. Pure.

Bookings are the ledger: every instance has what it was promised until it is verified gone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from app.fleet.estimate import Demand, Draft
from app.fleet.fit import Fitted, Shortfall, find_fit, find_smaller_fit
from app.fleet.memory import Booking, Reading, Room, room_for
from app.fleet.records import still_cramped
from app.fleet.spec import ModelSpec
from app.fleet.states import FleetState, InstanceFacts, Limits, MemoryState
from app.weights.gguf import GgufFacts
from app.weights.inventory import WeightsFile


def demand_of(spec: ModelSpec, memory: MemoryState) -> Demand:
    """What a model asks for, with what is known of it."""
    weights = spec.run.weights
    facts = spec.facts or (memory.facts.get(weights) if weights else None)
    size_bytes = spec.weights_bytes or (weights.size_bytes if weights else 0)
    projector, draft = spec.companions.mmproj, spec.companions.draft
    seen = _facts(projector, memory) if projector else None
    return Demand(
        spec.key,
        spec.run,
        facts,
        size_bytes,
        memory.ratios.get(spec.key, 1.0),
        memory.base_bytes,
        seen.projector if seen else None,
        Draft(_facts(draft, memory), draft.all_bytes) if draft else None,
    )


def _facts(file: WeightsFile, memory: MemoryState) -> GgufFacts | None:
    return file.facts or memory.facts.get(file.id)


def fit_on_empty_host(spec: ModelSpec, memory: MemoryState) -> Fitted | Shortfall:
    """How it would start if nothing else of ours were loaded; with no reading, as if there were memory without end."""
    reading = memory.reading or Reading(0.0, {})
    return find_fit(demand_of(spec, memory), room_for(reading, memory.budget, (), all_threads=memory.threads))


class Admission:
    """One decision's view of the memory; what it starts is booked from then on."""

    def __init__(self, fleet: FleetState, limits: Limits, *, now_s: float) -> None:
        """Begin with what is booked now."""
        self._limits, self._now_s = limits, now_s
        self._memory, self._instances, self._records = fleet.memory, fleet.instances, fleet.records
        self._started: list[Booking] = []

    @property
    def is_unread(self) -> bool:
        """Whether nothing may be started before memory was read anew."""
        return self._memory is not None and not self._memory.is_fresh

    @property
    def asks_to_read(self) -> bool:
        """Whether that has still to be asked for."""
        return self.is_unread and self._memory is not None and not self._memory.is_being_read

    @property
    def due_until_s(self) -> float:
        """Until then, more memory may come back than was read."""
        return self._memory.due_until_s if self._memory else float("-inf")

    def fit_alone(self, spec: ModelSpec) -> Fitted | Shortfall | None:
        """How it would start if nothing else were loaded."""
        if self._memory is None or self._memory.reading is None:
            return None
        everything = [_booking(instance) for instance in self._instances]
        room = room_for(self._memory.reading, self._memory.budget, (), everything)
        return self._find(spec, self._memory, room)

    def fit(
        self, spec: ModelSpec, gone: Collection[int] = (), leaving: Collection[int] = ()
    ) -> Fitted | Shortfall | None:
        """How it would start once the instances ``gone`` are; None where memory is not looked at.

        Args:
            spec: The model.
            gone: Instances whose memory is thought to be back.
            leaving: Instances on their way out: their processors count as free, their memory does not.
        """
        if self._memory is None or self._memory.reading is None:
            return None
        room = self._room(self._memory, self._memory.reading, gone, {*gone, *leaving})
        return self._find(spec, self._memory, room)

    def fits(self, spec: ModelSpec, gone: Collection[int] = ()) -> bool:
        """Whether it could start once these are gone, as far as anybody knows."""
        return not isinstance(self.fit(spec, gone), Shortfall)

    def fit_beside(
        self, spec: ModelSpec, first: ModelSpec, gone: Collection[int], leaving: Collection[int] = ()
    ) -> Fitted | None:
        """How it would start now and take nothing from ``first``, which waits for memory; None where it would.

        Args:
            spec: The model.
            first: The one that waits.
            gone: Instances that go for that one.
            leaving: As for ``fit``.
        """
        memory, before = self._memory, self.fit(first, gone)
        if memory is None or memory.reading is None or not isinstance(before, Fitted):
            return None
        self.book(before)
        later = self._room(memory, memory.reading, gone, gone)
        self._started.pop()
        now = self._room(memory, memory.reading, (), leaving)
        free = {device: min(size, later.free.get(device, size)) for device, size in now.free.items()}
        fitted = self._find(spec, memory, replace(now, free=free))
        if isinstance(fitted, Shortfall):
            return None
        self.book(fitted)
        after = self.fit(first, gone)
        self._started.pop()
        return fitted if isinstance(after, Fitted) and _size(after) == _size(before) else None

    def book(self, fitted: Fitted) -> None:
        """Promise it what it takes."""
        self._started.append(Booking(fitted.estimate.takes, {}, fitted.fit.busy_threads))

    def _find(self, spec: ModelSpec, memory: MemoryState, room: Room) -> Fitted | Shortfall:
        """Smaller than what ran out of memory, where that leaves a way; else as ever, and others make room."""
        demand, record = demand_of(spec, memory), self._records.get(spec.key)
        cramped = still_cramped(record, room.free, self._limits, now_s=self._now_s)
        smaller = find_smaller_fit(demand, room, cramped) if cramped else None
        return smaller or find_fit(demand, room)

    def _room(self, memory: MemoryState, reading: Reading, gone: Collection[int], not_working: Collection[int]) -> Room:
        staying = [_booking(i, works=i.id not in not_working) for i in self._instances if i.id not in gone]
        leaving = [_booking(i) for i in self._instances if i.id in gone]
        return room_for(reading, memory.budget, staying + self._started, leaving, all_threads=memory.threads)


def _size(fitted: Fitted) -> tuple[object, ...]:
    """What of a start its users would miss."""
    return fitted.fit.context_length, fitted.fit.slots, fitted.fit.gpu_layers


def _booking(instance: InstanceFacts, *, works: bool = False) -> Booking:
    """Its memory, and where it ``works`` its threads, too."""
    return replace(instance.booking or Booking({}, {}), threads=instance.threads if works else 0)
