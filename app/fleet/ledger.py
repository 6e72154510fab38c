"""The fleet's view of memory: the last reading of the host, what models took before, and what is booked of it.

Owned by the fleet, and changed in its steps only. What an instance was promised stands with the instance and goes with
it, so the sum of all bookings is never less than nothing and nothing is returned twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from app.engines.base import WeightsId
from app.errors import UnavailableError
from app.fleet.admit import demand_of
from app.fleet.bounds import by_node
from app.fleet.corrections import Measured, keep_corrections, ratios_of, read_corrections
from app.fleet.estimate import Demand
from app.fleet.fit import Fitted, Shortfall, find_fit
from app.fleet.instance import Instance
from app.fleet.memory import Booking, Budget, Reading, Room, Share, hosts_in, room_for, shares_of
from app.fleet.meter import Memory, Meter
from app.fleet.report import fit_report
from app.fleet.spec import ModelSpec
from app.fleet.states import MemoryState, State

log = logging.getLogger("airlab")

_FRESH_S, _SOON_FRESH_S = 5.0, 0.2
"""Others use memory, too: a reading older than this starts nothing; the second while memory is to come back."""
_DUE_S = 5.0
"""So long after an engine is gone its memory may still come back."""


class MemoryLedger:
    """What the fleet knows of memory; without a meter, nothing."""

    def __init__(self, memory: Memory | None, changed: Callable[[], None]) -> None:
        """``changed`` is called whenever there is a new reading."""
        self._meter = memory.meter if memory else None
        self._file = memory.file if memory else None
        self._changed = changed
        self._reading: Reading | None = None
        self._read_s = self._gone_s = float("-inf")
        self._stale = True
        self._state = MemoryState(None, is_fresh=False, is_being_read=False)
        if memory is not None:
            self._state = replace(self._state, threads=memory.threads, base_bytes=memory.base_bytes)
        self._known = read_corrections(self._file) if self._file is not None else {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reads: asyncio.Task[None] | None = None
        self._by_node = False

    @property
    def is_read(self) -> bool:
        """Whether memory is looked at."""
        return self._meter is not None

    def want(self, models: Mapping[str, ModelSpec], budget: Budget) -> None:
        """Take over what an edit may have changed."""
        ratios = ratios_of(self._known, models)
        is_by_node = by_node(models.values())
        self._stale = self._stale or is_by_node != self._by_node
        self._by_node = is_by_node
        self._state = replace(self._state, budget=budget, ratios=ratios)

    def state(self, *, now_s: float) -> MemoryState | None:
        """What a decision may look at; None where nobody can read memory."""
        if self._meter is None:
            return None
        due_until_s = self._gone_s + _DUE_S
        old_s = self._read_s + (_SOON_FRESH_S if now_s < due_until_s else _FRESH_S)
        is_read = self._reads is not None
        is_fresh = self._reading is not None and not self._stale and not is_read and now_s < old_s
        state = replace(self._state, reading=self._reading, is_fresh=is_fresh, is_being_read=is_read)
        return replace(state, due_until_s=due_until_s)

    def came(self) -> None:
        """An engine has taken what it takes: what was free is so no more."""
        self._stale = True

    def went(self) -> None:
        """An engine is gone: what it had comes back, if not at once."""
        self._stale, self._gone_s = True, time.monotonic()

    def booking(self, instance: Instance) -> Booking | None:
        """What an instance was promised, and what of that it holds."""
        return self._booking(instance, self._reading)

    def shares(self, instances: Iterable[Instance]) -> list[Share]:
        """How memory is shared by the last reading; nothing before the first."""
        reading = self._reading
        if reading is None:
            return []
        booked = [(each, booking) for each in instances if (booking := self._booking(each, reading)) is not None]
        # What came up after the reading was taken held nothing then, so what was free then is not less by it.
        bookings = [replace(booking, held={}) if each.since_s >= reading.at_s else booking for each, booking in booked]
        return shares_of(reading, self._state.budget, bookings)

    @staticmethod
    def _booking(instance: Instance, reading: Reading | None) -> Booking | None:
        if instance.fitted is None:
            return None
        takes, loaded = instance.fitted.estimate.takes, instance.state is not State.STARTING
        # Before it is ready nobody knows what of a GPU it has: nothing is the safe answer.
        held = {device: size for device, size in instance.fitted.estimate.not_mapped.items() if loaded}
        found = reading.residents.get(instance.id) if reading else None
        hosts = hosts_in(takes)
        if found is not None and hosts:
            held |= dict.fromkeys(hosts, found.own_bytes // len(hosts))
        return Booking(takes, held)

    def read(self, instances: Iterable[Instance], models: Iterable[ModelSpec]) -> None:
        """Read memory in a task, and headers that nobody has looked into yet; ``changed`` follows."""
        if self._meter is None or self._reads is not None:
            return
        self._stale = False  # what comes or goes while it is read makes it stale again
        unread = {file for spec in models if spec.problem is None for file in spec.unread_files}
        unread -= self._state.facts.keys()
        self._reads = asyncio.create_task(self._read(self._meter, _pids(instances), unread))

    async def _read(self, meter: Meter, pids: Mapping[int, int], unread: Collection[WeightsId]) -> None:
        try:
            facts = await meter.headers(unread) if unread else {}
            reading = await meter.read(pids, by_node=self._by_node)
        except Exception:
            # Whatever it is, models must start: as if nobody knew of any memory.
            log.exception("memory could not be read")
            facts, reading = {}, Reading(time.monotonic(), {})
        self._reading, self._reads, self._read_s = reading, None, time.monotonic()
        self._state = replace(self._state, facts={**self._state.facts, **facts})
        self._changed()

    async def judge(
        self, spec: ModelSpec, instances: Collection[Instance], *, measured_bytes: int | None
    ) -> dict[str, Any]:
        """What a model would take beside these instances, its own left out, by a reading of its own.

        Raises:
            UnavailableError: Nobody can read memory here.
        """
        if self._meter is None:
            raise UnavailableError(
                "memory is not looked at here, so whether a model fits is not known", retry_after_s=60
            )
        demand, beside, alone = await self._weigh(self._meter, spec, instances)
        return fit_report(demand, beside, alone, measured_bytes=measured_bytes)

    async def never_fits(self, spec: ModelSpec, instances: Collection[Instance]) -> Shortfall | None:
        """Why a model cannot start even if all of these go; None where it can, or where that is not sure.

        Sure is what follows from its header; and while memory may still come back, there may soon be more.
        """
        if self._meter is None:
            return None
        while True:
            try:
                demand, _, alone = await self._weigh(self._meter, spec, instances)
            except Exception:
                # As where it is read for a start: whatever it is, nobody is kept from a model by it.
                log.exception("memory could not be read")
                return None
            found = find_fit(demand, alone)
            if not isinstance(found, Shortfall) or not found.estimate.knows_shape:
                return None
            if time.monotonic() >= self._gone_s + _DUE_S:
                return found
            await asyncio.sleep(_SOON_FRESH_S)

    async def _weigh(self, meter: Meter, spec: ModelSpec, instances: Collection[Instance]) -> tuple[Demand, Room, Room]:
        """What a model asks for, the room beside these instances, and that if all of them were gone."""
        unread = spec.unread_files if spec.problem is None else ()
        facts = await meter.headers(unread) if unread else {}
        reading = await meter.read(_pids(instances), by_node=self._by_node)
        state = replace(self._state, facts={**self._state.facts, **facts})
        booked = [
            (each, replace(self._booking(each, reading) or Booking({}, {}), threads=each.facts.threads))
            for each in instances
        ]
        own = [booking for each, booking in booked if each.spec.key == spec.key]
        others = [booking for each, booking in booked if each.spec.key != spec.key]
        beside = room_for(reading, state.budget, others, own, all_threads=state.threads)
        alone = room_for(reading, state.budget, (), [*others, *own], all_threads=state.threads)
        return demand_of(spec, state), beside, alone

    def measure(self, instance: Instance) -> None:
        """See, in a task, what an instance took that has served its first request."""
        if self._meter is None or instance.fitted is None or instance.pid is None:
            return
        task = asyncio.create_task(self._measure(self._meter, instance, instance.fitted, instance.pid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _measure(self, meter: Meter, instance: Instance, fitted: Fitted, pid: int) -> None:
        try:
            found = (await meter.read({instance.id: pid}, by_node=self._by_node)).residents.get(instance.id)
        except Exception:
            log.exception("the memory of %s could not be read", instance.spec.key)
            return
        run = instance.wanted
        if found is None or run.weights is None or not fitted.estimate.knows_shape:
            return
        instance.measured_bytes = found.resident_bytes
        if run.mmproj is not None:  # its first request may have brought an image, which takes more than any mistake
            return
        measured = Measured(run.files_bytes, fitted.estimate.uncorrected_bytes, found.resident_bytes)
        self._known[instance.spec.key] = measured
        self._state = replace(self._state, ratios={**self._state.ratios, instance.spec.key: measured.ratio})
        if self._file is not None:
            try:
                await asyncio.to_thread(keep_corrections, self._file, dict(self._known))
            except OSError as exc:
                log.warning("what models took cannot be kept in %s: %s", self._file, exc.strerror)

    async def close(self) -> None:
        """Wait for what is being read: nothing of it may outlive the fleet."""
        await asyncio.gather(*self._tasks, *([self._reads] if self._reads else []))


def _pids(instances: Iterable[Instance]) -> dict[int, int]:
    return {each.id: each.pid for each in instances if each.pid is not None}
