"""How soon is an edit in force? 200 models, one of which changes, saved as editors save, and read when we ask for it.

What is timed is POST /manifest/reload from the question to the answer, less the 100 ms that AirLab leaves between two
reads that have to agree: reading twice, parsing, looking for weights, resolving, planning, the commit, and keeping a
copy on the disk. Beside it stands parsing alone, in this process.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from app.manifest.load import parse_manifest
from app.manifest.settle import Quiet
from app.units import MIB
from bench.figures import Budget, Figure, NotMeasuredError
from bench.load import Connection, ask_json, connected
from bench.targets import MODEL, AirLab, airlab, manifest

_MODELS, _MOST_MS, _MOST_MIB = 200, 150, 120
_NOTICED_S = 10.0


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds from the first read to the commit, and the resident memory of the service afterwards in MiB."""
    text = manifest({"bench": MODEL.name} | {f"bench-{i}": f"bench-{i}.gguf" for i in range(1, _MODELS)}, slots=2)
    reload_ms, parse_ms = [], []
    with airlab(text) as service, connected(service.admin) as connection:
        file = Path(ask_json(service.admin, "/manifest")["file"])
        for number in range(1, 6 if quick else 31):
            edited = text.replace("-7.gguf, context_length: 1k", f"-7.gguf, context_length: {512 + number}")
            took_s = _reload_s(service, connection, file, edited)
            _until_noticed(service, connection, 2 * number)
            if took_s is None:
                continue
            reload_ms.append(1000 * (took_s - Quiet().renamed_s))
            begun_s = time.perf_counter()
            parse_manifest(edited.encode(), name="airlab.yaml")
            parse_ms.append(1000 * (time.perf_counter() - begun_s))
        if not reload_ms:
            raise NotMeasuredError("the service noticed every save before it was asked to read the file")
        resident_mib = psutil.Process(service.process.pid).memory_info().rss / MIB
    return [
        Figure(
            f"settled read to commit, {_MODELS} models",
            "ms",
            reload_ms,
            parse_ms,
            Budget(_MOST_MS, "at most", "airlab"),
        ),
        Figure(
            f"resident memory after {len(reload_ms)} reloads, {_MODELS} models",
            "MiB",
            [resident_mib],
            [],
            Budget(_MOST_MIB, "at most", "airlab"),
        ),
    ]


def _reload_s(service: AirLab, connection: Connection, file: Path, text: str) -> float | None:
    """Seconds from the question to the answer; None where the service had noticed the save before it was asked."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)
    request = service.admin.request("/manifest/reload", {})
    begun_s = time.perf_counter()
    answer = connection.ask(request)
    took_s = time.perf_counter() - begun_s
    return took_s if b'"result":"committed"' in answer.replace(b" ", b"") else None


def _until_noticed(service: AirLab, connection: Connection, attempts: int) -> None:
    """Wait until the service has also noticed the save by itself, or it would in the middle of the next round."""
    ends_s = time.monotonic() + _NOTICED_S
    while time.monotonic() < ends_s:
        lines = connection.ask(service.admin.request("/metrics")).decode().splitlines()
        if sum(int(line.split()[-1]) for line in lines if line.startswith("airlab_config_reloads_total")) >= attempts:
            return
        time.sleep(0.01)
    raise NotMeasuredError(f"the service did not notice a save within {_NOTICED_S:.0f} s")
