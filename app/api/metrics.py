"""GET /metrics: AirLab's figures in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from litestar import Request, Response, get

from app.api import walls
from app.api.auth import Scope
from app.fleet.states import State
from app.service import Service

_TYPE = "text/plain; version=0.0.4"  # Litestar adds the charset


@get("/metrics", opt={"scope": Scope.USE})
async def metrics(request: Request[Any, Any, Any]) -> Response[str]:
    """Configuration and models, from memory."""
    service: Service = request.app.state.owner.service
    return Response("".join(_lines(service)), media_type=_TYPE)


def _lines(service: Service) -> Iterator[str]:
    reload, snapshot = service.reload, service.live.current
    last_ok = reload.last.result != "failed"
    yield from _family(
        "config_last_reload_successful", "gauge", "Whether the manifest's file is in force.", [("", int(last_ok))]
    )
    yield from _family(
        "config_last_reload_success_timestamp_seconds",
        "gauge",
        "Unix time at which what is in force was read.",
        [("", round(reload.loaded_at_s, 3))],
    )
    yield from _family(
        "config_generation", "gauge", "Grows when what is in force changes.", [("", snapshot.generation)]
    )
    results = [(f'{{result="{result}"}}', reload.counts[result]) for result in ("committed", "unchanged", "failed")]
    yield from _family("config_reloads_total", "counter", "Times the manifest was read, by what came of it.", results)
    status = service.fleet.status()
    states = [
        (f'{{model="{key}",state="{state}"}}', int(now.state is state))
        for key, now in status.items()
        for state in State
    ]
    yield from _family("model_state", "gauge", "1 for the state that a model is in.", states)
    busy = [(f'{{model="{key}"}}', now.busy) for key, now in status.items()]
    yield from _family("model_busy_slots", "gauge", "Slots of a model that serve a request.", busy)
    waiting = [(f'{{model="{key}"}}', now.waiting) for key, now in status.items()]
    yield from _family("model_waiting_requests", "gauge", "Requests that wait for a model.", waiting)
    enforced = walls.samples(service.gate.enforced())
    words = "1 where the kernel confines tools of a class, tried at start."
    yield from _family("sandbox_enforced", "gauge", words, enforced)


def _family(name: str, kind: str, words: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP airlab_{name} {words}\n# TYPE airlab_{name} {kind}\n"
    for labels, value in samples:
        yield f"airlab_{name}{labels} {value}\n"
