"""How soon is AirLab there, and how much memory does it take? 200 models declared, one of them on disk, none loaded."""

from __future__ import annotations

import time

import psutil

from app.units import MIB
from bench.figures import Budget, Figure
from bench.load import ask_json
from bench.targets import MODEL, airlab, manifest

_MODELS = 200
_SETTLE_S = 1.0


def measure(*, quick: bool) -> list[Figure]:
    """Seconds from the process's start to the first /health, and resident memory of the idle service in MiB."""
    text = manifest({"bench": MODEL.name} | {f"bench-{i}": f"bench-{i}.gguf" for i in range(1, _MODELS)}, slots=2)
    start_s, resident_mib = [], []
    for _ in range(2 if quick else 5):
        with airlab(text) as service:
            ask_json(service.target, "/health")
            start_s.append(time.monotonic() - service.begun_s)
            time.sleep(_SETTLE_S)
            resident_mib.append(psutil.Process(service.process.pid).memory_info().rss / MIB)
    return [
        Figure(f"start to first /health, {_MODELS} models", "s", start_s, [], Budget(1.0, "at most", "airlab")),
        Figure(f"resident memory, idle, {_MODELS} models", "MiB", resident_mib, [], Budget(120, "at most", "airlab")),
    ]
