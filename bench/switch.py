"""What does AirLab add to the time in which one model is stopped and another started? The same file under two keys.

And how long does a client wait for the first word of the model that is not loaded, beside llama.cpp's own router?
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Budget, Figure, NotMeasuredError
from bench.load import Target, ask_json
from bench.targets import MODEL, AirLab, Engine, airlab, llama_server, manifest, start_engine, stop, stop_engine

_AS_GOOD = Budget(1, "at most", "ratio")
_AS_AIRLAB = (
    "--ctx-size",
    "2048",
    "--parallel",
    "2",
    "--threads",
    "1",
    "--batch-size",
    "512",
    "--no-webui",
    "--offline",
)
_START_S = 30.0
_PAUSE_S = 2.1
"""AirLab takes no model's place that was used in the last two seconds."""


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds of /model/switch, and of the engine's own stop and start, in turn."""
    text = manifest({"first": MODEL.name, "second": MODEL.name}, slots=2)
    with airlab(text) as service, tempfile.TemporaryDirectory(prefix="airlab-bench-") as folder:
        engine = service.engine("first").elsewhere(Path(folder) / "direct.sock")
        rounds = 3 if quick else 9
        through, direct = _in_turn(service, engine, rounds=rounds)
        figures = [Figure("model switch", "ms", through, direct, Budget(100, "at most", "difference"))]
        if (program := llama_server()) is not None:
            with _router(program, Path(folder)) as router:
                words = _first_words(service.target, router, rounds=rounds)
            figures.append(Figure("first word of the other model, beside the router", "ms", *words, _AS_GOOD))
    return figures


def _first_words(airlab_target: Target, router: Target, *, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a chat of one token with the model that is not loaded; in turn, after a pause for both."""
    told: tuple[list[float], list[float]] = ([], [])
    for key in itertools.islice(itertools.cycle(("first", "second")), rounds + 2):
        time.sleep(_PAUSE_S)
        for target, times in zip((airlab_target, router), told, strict=True):
            chat = {"model": key, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
            begun_s = time.perf_counter()
            ask_json(target, "/v1/chat/completions", chat)
            times.append(1000 * (time.perf_counter() - begun_s))
    # Of the first two, one was loaded already.
    return told[0][2:], told[1][2:]


@contextlib.contextmanager
def _router(program: str, folder: Path) -> Iterator[Target]:
    """llama-server as a router of the same two models, one at a time, started as AirLab starts engines."""
    models = folder / "router"
    models.mkdir()
    for key in ("first", "second"):
        (models / f"{key}.gguf").symlink_to(MODEL)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [program, "--models-dir", str(models), "--models-max", "1", "--port", str(port), *_AS_AIRLAB]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    target = Target(("127.0.0.1", port))
    try:
        _wait_for(target, process)
        yield target
    finally:
        stop(process)


def _wait_for(target: Target, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError, NotMeasuredError):
            ask_json(target, "/health")
            return
        time.sleep(0.02)
    raise NotMeasuredError("llama-server did not start as a router")


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
