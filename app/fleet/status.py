"""How a model is, for pages: a copy, never to decide on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.fleet.instance import Instance
from app.fleet.states import ON_ITS_WAY_OUT, Record, State


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model, as it is now."""

    state: State
    since_s: float | None
    """Monotonic time at which the state was reached, where an instance exists."""
    pid: int | None
    slots: int
    busy: int
    waiting: int
    message: str | None
    container: str | None = None
    """The id of its container, where it runs in one."""
    fallback: str | None = None
    """On what it runs in place of what its profile asks for, because of what; None where it runs as asked."""
    context_length: int | None = None
    """Tokens for each slot of what runs."""
    measured_bytes: int | None = None
    """What it kept in memory after its first request."""


def status_of(instances: Sequence[Instance], record: Record, *, slots: int, waiting: int, now_s: float) -> ModelStatus:
    """A model's status, from its instances (oldest first) and what is remembered of it."""
    if instances:
        # The newest that is not on its way out speaks for the key.
        staying = (i for i in reversed(instances) if i.state not in ON_ITS_WAY_OUT)
        shown = next(staying, instances[-1])
        why = f"leaving: {shown.why}" if shown.why else None
        running = shown.running
        where = (running.container, running.fallback_because) if running else (None, None)
        return ModelStatus(
            *(shown.state, shown.since_s, shown.pid, shown.slots, shown.leases, waiting, why, *where),
            context_length=shown.spec.run.context_length,
            measured_bytes=shown.measured_bytes,
        )
    if record.failure is not None:
        return ModelStatus(State.FAILED, None, None, slots, 0, waiting, record.failure.message)
    if record.cooling_until_s is not None and record.cooling_until_s > now_s:
        return ModelStatus(State.COOLING, None, None, slots, 0, waiting, record.last_fault)
    return ModelStatus(State.STOPPED, None, None, slots, 0, waiting, None)
