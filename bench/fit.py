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
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from app.devices.resident import resident
from app.engines.base import Fit, RunSpec, WeightsId
from app.engines.command import launch_for
from app.fleet.estimate import OUTPUTS, Demand, Draft, estimate
from app.manifest.engine_sections import NativeEngineSection
from app.units import format_bytes
from app.weights.gguf import read_header
from bench.load import Target, ask_json
from bench.projectors import PROJECTORS, write_projector
from bench.rerankers import RERANKERS, write_reranker
from bench.shapes import SHAPES, write_shape

MODEL = Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXTS, SLOTS, CACHE_TYPES = (512, 1024, 2048, 4096, 8192, 16384), (1, 2, 4), ("f16", "q8_0")
ALLOWED = 0.10
_START_S, _TRIES_S = 60.0, 0.05
_TOKEN = 300
"""Any that all of these vocabularies have."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    what: str
    demand: Demand
    fit: Fit


def file_id(file: Path) -> WeightsId:
    """A file as runs know it."""
    info = file.stat()
    return WeightsId(file, info.st_size, info.st_mtime_ns)


def case(
    what: str,
    file: Path,
    context: int,
    slots: int,
    cache_type: str,
    *,
    draft: Path | None = None,
    eye: Path | None = None,
) -> Case:
    """How this model is started here: one thread, no GPU."""
    run = RunSpec(
        NativeEngineSection(),
        frozenset({"chat"}),
        file_id(file),
        context,
        slots,
        0,
        1,
        cache_type,  # type: ignore[arg-type]
        mmproj=file_id(eye) if eye else None,
        draft_model=file_id(draft) if draft else None,
    )
    demand = Demand(
        "m",
        run,
        read_header(file),
        file.stat().st_size,
        projector=read_header(eye).projector if eye else None,
        draft=Draft(read_header(draft), draft.stat().st_size) if draft else None,
    )
    return Case(what, demand, Fit(context, slots, 0, 1))


def ranking(each: Case) -> Case:
    """The same for a reranker."""
    run = replace(each.demand.run, kinds=frozenset({"rerank"}))
    return replace(each, demand=replace(each.demand, run=run))


def measure(server: Path, run: RunSpec, fit: Fit, folder: Path) -> int:
    """Resident bytes of a llama-server that was started so, after one prompt, or one pair, of a full batch."""
    socket = folder / "e.sock"
    launch = launch_for("m", run, socket=socket, environment=os.environ, fit=fit)
    with _running((str(server), *launch.arguments), socket) as pid:
        if "rerank" in run.kinds:
            pair = {"query": "w1", "documents": ["w1 " * (fit.context_length - 16)]}
            ask_json(Target(socket), "/v1/rerank", pair)
        else:
            tokens = min(fit.context_length - 16, 520)
            ask_json(Target(socket), "/completion", {"prompt": [_TOKEN] * tokens, "n_predict": 1})
        found = resident(pid)
        assert found is not None
        return found.resident_bytes


def predict(each: Case) -> int:
    """What that should be: nothing of what grows, but for the outputs of the pair."""
    made = estimate(each.demand, each.fit)
    return made.at_start_bytes() + sum(item.size_bytes for item in made.items if item.what == OUTPUTS)


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


def cases(folder: Path) -> Iterator[Case]:
    """The embedded model over everything, then other shapes, a draft model, projectors and rerankers over a little."""
    for context, slots, cache_type in product(CONTEXTS, SLOTS, CACHE_TYPES):
        yield case("embedded model", MODEL, context, slots, cache_type)
    for shape in SHAPES:
        file = folder / f"{shape.name}.gguf"
        write_shape(shape, file)
        for context, slots, cache_type in ((512, 1, "f16"), (4096, 2, "q8_0"), (16384, 4, "f16")):
            yield case(shape.name, file, context, slots, cache_type)
    for context, slots, cache_type in product((512, 4096, 16384), (1, 4), CACHE_TYPES):
        yield case("with a draft", MODEL, context, slots, cache_type, draft=MODEL)
    large, small = (folder / f"{SHAPES[number].name}.gguf" for number in (1, 0))
    yield case("another draft", large, 4096, 2, "f16", draft=small)
    for projector in PROJECTORS:
        eye = folder / "eye.gguf"
        write_projector(projector, eye)
        for context, slots in ((512, 1), (4096, 4)):
            yield case(projector.name, MODEL, context, slots, "f16", eye=eye)
    for reranker in RERANKERS:
        file = folder / f"{reranker.name}.gguf"
        write_reranker(reranker, file)
        for context, slots in ((512, 1), (2048, 4), (reranker.context, 1)):
            yield ranking(case(reranker.name, file, context, slots, "f16"))


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
        for each in cases(folder):
            predicted = predict(each)
            run, fit = each.demand.run, each.fit
            measured = measure(Path(given), run, fit, folder)
            off = predicted / measured - 1
            worst = max(worst, abs(off))
            row = (
                f"{each.what:15} {fit.context_length:8} {fit.slots:5} {run.cache_type:>6} {format_bytes(predicted):>11}"
            )
            print(f"{row} {format_bytes(measured):>11} {off:+8.1%}", flush=True)
    print(f"\nworst: {worst:.1%}, allowed: {ALLOWED:.0%}")
    return 1 if worst > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
