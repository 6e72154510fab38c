"""How much later does a chat answer because of AirLab? One connection, keys on; instant upstream, then the engine."""

from __future__ import annotations

import statistics

from bench.chats import one_token
from bench.figures import Budget, Figure
from bench.load import Connection, Target, connected, seconds_each
from bench.targets import MODEL, AirLab, airlab, manifest

_PATH = "/v1/chat/completions"
_KEY = "bench"


def instant(*, quick: bool) -> list[Figure]:
    """Against an upstream that answers at once."""
    with airlab(manifest({_KEY: MODEL.name}, slots=64), instant=True) as service:
        direct, through = _median_ms(service, rounds=5 if quick else 25, requests=200)
    return [Figure("chat latency, instant upstream", "ms", through, direct, Budget(0.4, "at most", "difference"))]


def engine(*, quick: bool) -> list[Figure]:
    """Against the real engine, one token."""
    with airlab(manifest({_KEY: MODEL.name}, slots=2)) as service:
        direct, through = _median_ms(service, rounds=5 if quick else 25, requests=20)
    return [Figure("1-token chat latency, engine", "ms", through, direct, Budget(1.0, "at most", "difference"))]


def _median_ms(service: AirLab, *, rounds: int, requests: int) -> tuple[list[float], list[float]]:
    """Direct and through AirLab in turn: the median of each round, in milliseconds."""
    direct_target, through_target = service.engine(_KEY).target, service.target
    direct, through = [], []
    with connected(direct_target) as straight, connected(through_target) as round_about:
        for lane, target in ((straight, direct_target), (round_about, through_target)):
            _round_ms(lane, target, requests)  # caches and connections warm up, uncounted
        for _ in range(rounds):
            direct.append(_round_ms(straight, direct_target, requests))
            through.append(_round_ms(round_about, through_target, requests))
    return direct, through


def _round_ms(lane: Connection, target: Target, requests: int) -> float:
    request = target.request(_PATH, one_token(_KEY))
    return 1000 * statistics.median(seconds_each(lane, request, requests))
