"""How many requests a second does one AirLab process pass on? 32 connections, keys on, an instant upstream.

The bench itself and the upstream take a processor's worth of time beside it: with two, the figure is a lower bound.
"""

from __future__ import annotations

import psutil
import uvloop

from bench.chats import one_token
from bench.figures import Budget, Figure
from bench.load import Target, requests_per_s
from bench.targets import MODEL, AirLab, airlab, manifest

_CONNECTIONS, _REQUESTS_PER_S = 32, 6000


def measure(*, quick: bool) -> list[Figure]:
    """Requests a second, direct and through AirLab in turn, and the processor time that AirLab took for each."""
    rounds, seconds = (2, 1.0) if quick else (6, 2.0)
    direct, through, used_us = [], [], []
    with airlab(manifest({"bench": MODEL.name}, slots=64), instant=True) as service:
        engine = service.engine("bench")
        _rate(service.target, 0.5)
        for _ in range(rounds):
            direct.append(_rate(engine.target, seconds / 2))
            used_s = -_processor_s(service)
            through.append(_rate(service.target, seconds))
            used_s += _processor_s(service)
            used_us.append(1e6 * used_s / (seconds * through[-1]))
    name = f"requests, instant upstream, {_CONNECTIONS} connections"
    return [
        Figure(name, "1/s", through, direct, Budget(_REQUESTS_PER_S, "at least", "airlab")),
        # The same budget, said in a way that busy neighbours on the machine disturb less.
        Figure(
            "processor time for each of them", "us", used_us, [], Budget(1e6 / _REQUESTS_PER_S, "at most", "airlab")
        ),
    ]


def _processor_s(service: AirLab) -> float:
    times = psutil.Process(service.process.pid).cpu_times()
    return times.user + times.system


def _rate(target: Target, seconds: float) -> float:
    request = target.request("/v1/chat/completions", one_token("bench"))
    return uvloop.run(requests_per_s(target, request, connections=_CONNECTIONS, seconds=seconds))
