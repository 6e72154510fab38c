"""What does AirLab add to the time in which one model is stopped and another started? The same file under two keys."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import time
from pathlib import Path

from bench.figures import Budget, Figure
from bench.load import ask_json
from bench.targets import MODEL, AirLab, Engine, airlab, manifest, start_engine, stop_engine


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds of /model/switch, and of the engine's own stop and start, in turn."""
    text = manifest({"first": MODEL.name, "second": MODEL.name}, slots=2)
    with airlab(text) as service, tempfile.TemporaryDirectory(prefix="airlab-bench-") as folder:
        engine = service.engine("first").elsewhere(Path(folder) / "direct.sock")
        through, direct = _in_turn(service, engine, rounds=3 if quick else 9)
    return [Figure("model switch", "ms", through, direct, Budget(100, "at most", "difference"))]


def _in_turn(service: AirLab, engine: Engine, *, rounds: int) -> tuple[list[float], list[float]]:
    through, direct = [], []
    process = start_engine(engine)
    try:
        for key in itertools.islice(itertools.cycle(("second", "first")), rounds):
            took_ms, process = _restart(process, engine)
            direct.append(took_ms)
            through.append(_switch(service, key))
    finally:
        stop_engine(process, engine)
    return through, direct


def _switch(service: AirLab, key: str) -> float:
    begun_s = time.perf_counter()
    ask_json(service.admin, "/model/switch", {"model_key": key})
    return 1000 * (time.perf_counter() - begun_s)


def _restart(process: subprocess.Popen[bytes], engine: Engine) -> tuple[float, subprocess.Popen[bytes]]:
    begun_s = time.perf_counter()
    stop_engine(process, engine)
    process = start_engine(engine)
    return 1000 * (time.perf_counter() - begun_s), process
