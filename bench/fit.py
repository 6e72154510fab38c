"""Predicted against measured memory: llama-server started over contexts, slots, cache types and shapes of models.

``make bench-fit`` prints a table; the exit code is 1 where a prediction is off by more than a tenth. Measured is what
the process keeps resident after one prompt of a full batch, as ``fleet/estimate.py`` defines it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from app.devices.resident import resident
from app.engines.base import Fit, RunSpec, WeightsId
from app.engines.command import launch_for
from app.fleet.estimate import Demand, estimate
from app.manifest.schema import CacheType, NativeEngineSection
from app.units import format_bytes
from app.weights.gguf import read_header
from bench.load import Target, ask_json
from bench.shapes import SHAPES, write_shape

MODEL = Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXTS, SLOTS, CACHE_TYPES = (512, 1024, 2048, 4096, 8192, 16384), (1, 2, 4), ("f16", "q8_0")
ALLOWED = 0.10
_START_S, _TRIES_S = 60.0, 0.05
_TOKEN = 300
"""Any that all of these vocabularies have."""


def run_of(file: Path, context: int, slots: int, cache_type: CacheType) -> RunSpec:
    """How this model is started here: one thread, no GPU."""
    info = file.stat()
    weights = WeightsId(file, info.st_size, info.st_mtime_ns)
    kinds = frozenset({"chat"})
    return RunSpec(NativeEngineSection(), kinds, weights, context, slots, 0, 1, cache_type)  # type: ignore[arg-type]


def measure(server: Path, run: RunSpec, fit: Fit, folder: Path) -> int:
    """Resident bytes of a llama-server that was started so, after one prompt of a full batch."""
    socket = folder / "e.sock"
    launch = launch_for("m", run, socket=socket, environment=os.environ, fit=fit)
    with _running((str(server), *launch.arguments), socket) as pid:
        tokens = min(fit.context_length - 16, 520)
        ask_json(Target(socket), "/completion", {"prompt": [_TOKEN] * tokens, "n_predict": 1})
        found = resident(pid)
        assert found is not None
        return found.resident_bytes


@contextlib.contextmanager
def _running(argv: tuple[str, ...], socket: Path) -> Iterator[int]:
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends_s = time.monotonic() + _START_S
        while True:
            try:
                ask_json(Target(socket), "/health")
                break
            except Exception:  # not there yet, or still loading: whatever it is, the end of time tells
                if process.poll() is not None or time.monotonic() > ends_s:
                    raise
                time.sleep(_TRIES_S)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        socket.unlink(missing_ok=True)


def cases(folder: Path) -> Iterator[tuple[str, Path, int, int, CacheType]]:
    """The embedded model over everything, then other shapes over a little."""
    for context, slots, cache_type in product(CONTEXTS, SLOTS, CACHE_TYPES):
        yield "embedded model", MODEL, context, slots, cache_type  # type: ignore[misc]
    for shape in SHAPES:
        file = folder / f"{shape.name}.gguf"
        write_shape(shape, file)
        for context, slots, cache_type in ((512, 1, "f16"), (4096, 2, "q8_0"), (16384, 4, "f16")):
            yield shape.name, file, context, slots, cache_type  # type: ignore[misc]


def main() -> int:
    """Print the table; 1 where a prediction is off."""
    given = (
        os.environ.get("AIRLAB_TEST_LLAMA_SERVER")
        or os.environ.get("LLAMA_SERVER_PATH")
        or shutil.which("llama-server")
    )
    if given is None:
        print("bench-fit needs a llama-server: AIRLAB_TEST_LLAMA_SERVER=/path/to/llama-server", file=sys.stderr)
        return 2
    worst = 0.0
    print(f"{'model':15} {'context':>8} {'slots':>5} {'cache':>6} {'predicted':>11} {'measured':>11} {'off by':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, file, context, slots, cache_type in cases(folder):
            run = run_of(file, context, slots, cache_type)
            fit = Fit(context, slots, 0, 1)
            predicted = estimate(Demand("m", run, read_header(file), file.stat().st_size), fit).at_start_bytes()
            measured = measure(Path(given), run, replace(fit), folder)
            off = predicted / measured - 1
            worst = max(worst, abs(off))
            row = f"{what:15} {context:8} {slots:5} {cache_type:>6} {format_bytes(predicted):>11}"
            print(f"{row} {format_bytes(measured):>11} {off:+8.1%}", flush=True)
    print(f"\nworst: {worst:.1%}, allowed: {ALLOWED:.0%}")
    return 1 if worst > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
