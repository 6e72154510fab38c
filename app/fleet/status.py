"""How a model is, for pages: a copy, never to decide on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.engines.base import Running
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
    container_bytes: int = 0
    """Memory that its container took when it was last looked at; a process is asked by its pid."""
    fallback: str | None = None
    """On what it runs in place of what its profile asks for, because of what; None where it runs as asked."""
    context_length: int | None = None
    """Tokens for each slot of what runs."""
    measured_bytes: int | None = None
    """What it kept in memory after its first request."""


def _place(running: Running) -> dict[str, Any]:
    activity = running.activity() if running.container else None
    return {
        "container": running.container,
        "container_bytes": int(activity[-1]) if activity else 0,
        "fallback": running.fallback_because,
    }


def status_of(instances: Sequence[Instance], record: Record, *, slots: int, waiting: int, now_s: float) -> ModelStatus:
    """A model's status, from its instances (oldest first) and what is remembered of it."""
    if instances:
        # The newest that is not on its way out speaks for the key.
        staying = (i for i in reversed(instances) if i.state not in ON_ITS_WAY_OUT)
        shown = next(staying, instances[-1])
        why = f"leaving: {shown.why}" if shown.why else None
        if why is None and shown.fitted is not None and shown.fitted.shrunk:
            why = shown.fitted.warning
        status = ModelStatus(
            *(shown.state, shown.since_s, shown.pid, shown.slots, shown.leases, waiting, why),
            context_length=shown.spec.run.context_length,
            measured_bytes=shown.measured_bytes,
        )
        return status if shown.running is None else replace(status, **_place(shown.running))
    if record.failure is not None:
        return ModelStatus(State.FAILED, None, None, slots, 0, waiting, record.failure.message)
    if record.cooling_until_s is not None and record.cooling_until_s > now_s:
        return ModelStatus(State.COOLING, None, None, slots, 0, waiting, record.last_fault)
    return ModelStatus(State.STOPPED, None, None, slots, 0, waiting, None)
