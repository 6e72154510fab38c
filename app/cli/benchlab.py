"""An AirLab of ``airlab bench``'s own: another process, port, state and manifest; the running one is left alone.

Its numbers are changed as any owner would, by an edit of its manifest. It shares the real one's models/ and the memory
of the host, which it finds as the running AirLab leaves it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.cli.remote import connected, own_url, read
from app.errors import AirLabError
from app.files import replace_file
from app.fleet.dropped import dropped_models
from app.manifest.load import read_manifest
from app.manifest.schema import Manifest, ModelSection
from app.settings import Settings, read_settings
from app.units import format_bytes
from app.weights.look import look_for_weights

_STOP_S = 60.0
_ASK_S = 2.0
_LEFT_OUT = frozenset({"preload", "pin", "idle_timeout", "not_with", "base_model", "aliases"})
"""Of a model's section: what starts or stops it at other times than the bench does, or names other models."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one load is measured with; None leaves a number as the manifest has it."""

    context_length: int | None
    slots: int | None

    def __str__(self) -> str:
        """For people."""
        context = "" if self.context_length is None else f"a context of {self.context_length}"
        slots = "" if self.slots is None else f"{self.slots} slot{'s' if self.slots > 1 else ''}"
        return " and ".join(filter(None, (context, slots)))


def combinations(contexts: Sequence[int], slots: Sequence[int]) -> list[Numbers]:
    """Every context with every number of slots."""
    return list(itertools.starmap(Numbers, itertools.product(contexts or (None,), slots or (None,))))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be measured."""

    section: ModelSection
    on_disk: bool


_Models = Mapping[str, Candidate]


class BenchLab:
    """The running AirLab of our own, and its manifest."""

    def __init__(self, client: httpx.Client, file: Path, manifest: Manifest, models: _Models) -> None:
        """Take over one that serves."""
        self.client, self.models = client, models
        self._file, self._manifest = file, manifest
        self._last: str | None = None

    def set_up(self, key: str, numbers: Numbers) -> Any:
        """Put one model in force, with these numbers, and none loaded; its entry in GET /models.

        Raises:
            AirLabError: The numbers are out of range, the model runs elsewhere, or the last one cannot be stopped.
        """
        if self._last is not None:
            read(self.client.post(f"/models/{self._last}/unload"))
        section = self.models[key].section
        if section.remote is not None:
            raise AirLabError(f"it runs on another server, {section.remote.url}, which has numbers of its own")
        text = json.dumps(manifest_for(self._manifest, key, section, numbers), indent=1)
        replace_file(self._file, text.encode())
        read(self.client.post("/manifest/reload"))
        self._last = key
        entries = read(self.client.get("/models"))["models"]
        return next(entry for entry in entries if entry["key"] == key)


def manifest_for(manifest: Manifest, key: str, section: ModelSection, numbers: Numbers) -> dict[str, Any]:
    """A manifest, as plain data, with this model alone, these numbers, the real one's profiles, and no tool."""
    whole = manifest.model_dump(mode="json", exclude_unset=True)
    profiles = {
        name: {field: value for field, value in profile.items() if field != "default_model"}
        for name, profile in whole.get("profiles", {}).items()
    }
    kept = section.model_dump(mode="json", exclude_unset=True)
    model = {field: value for field, value in kept.items() if field not in _LEFT_OUT}
    given = {"context_length": numbers.context_length, "parallel": numbers.slots}
    written = {field: number for field, number in given.items() if number is not None}
    # What a profile's override says would win over the model's own numbers.
    replaced = {*written, *({"n_ctx"} if "context_length" in written else ())}
    overrides = {
        name: {field: value for field, value in override.items() if field not in replaced}
        for name, override in model.pop("on", {}).items()
    }
    return {
        "version": 1,
        "default_model": key,
        **({"profiles": profiles} if profiles else {}),
        "models": {key: {**model, **written, "on": overrides}},
        "tools": {"builtin": []},
        "policy": {"roots": []},
    }


@contextmanager
def bench_lab(options: argparse.Namespace, settings: Settings) -> Iterator[BenchLab]:
    """An AirLab whose numbers may be changed.

    Raises:
        ManifestError: The manifest has problems.
        AirLabError: It does not start.
    """
    manifest = read_manifest(settings.manifest).manifest
    models = _models(manifest, settings)
    with tempfile.TemporaryDirectory(prefix="airlab-bench-") as folder:
        file = Path(folder) / "airlab.yaml"
        key, model = next(iter(models.items()))
        replace_file(file, json.dumps(manifest_for(manifest, key, model.section, Numbers(None, None))).encode())
        more = {"AIRLAB_MANIFEST": str(file), "AIRLAB_HOME": str(settings.home)}
        with own_airlab(options, Path(folder), more) as client:
            yield BenchLab(client, file, manifest, models)


def _models(manifest: Manifest, settings: Settings) -> _Models:
    """Those of the manifest, then those that were dropped into the folder for fine-tunes."""
    weights = look_for_weights(manifest, settings)
    dropped = {key: model.section for key, model in dropped_models(manifest, weights).items()}
    sections = manifest.models | dropped
    return {key: Candidate(section, weights.file_of(section) is not None) for key, section in sections.items()}


@contextmanager
def own_airlab(
    options: argparse.Namespace, state: Path, more: Mapping[str, str] | None = None
) -> Iterator[httpx.Client]:
    """An AirLab on a free port, with its state in this folder; gone at the end of the block.

    Raises:
        AirLabError: It does not start.
    """
    environment = os.environ | {"AIRLAB_STATE_DIR": str(state), "AIRLAB_HOST": "127.0.0.1", "AIRLAB_PORT": "0"}
    environment |= more or {}
    environment.setdefault("AIRLAB_LOG_LEVEL", "error")  # what matters to the bench, its answers say
    # A launcher serves one AirLab: for a second one it would remove what the first one has running.
    environment.pop("AIRLAB_LAUNCHER", None)
    command = [sys.executable, "-m", "app", "serve"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as own:
        try:
            line = own.stdout.readline() if own.stdout else ""
            if not line.startswith("AirLab serves on "):
                raise AirLabError("an AirLab of its own did not start; its words are above")
            options.url = line.removeprefix("AirLab serves on ").strip()
            with connected(options) as client:
                yield client
        finally:
            own.terminate()
            try:
                own.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                own.kill()
            # Its sockets lay in a folder named after a state that nobody will use again.
            shutil.rmtree(read_settings(state_dir=state).run_dir, ignore_errors=True)


def held_elsewhere(settings: Settings) -> str | None:
    """What the running AirLab has loaded, in words, since no model can be measured in that memory; None for nothing."""
    key = settings.admin_key or settings.api_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        url = own_url(settings)
        rows = httpx.get(f"{url}/ps", headers=headers, timeout=_ASK_S, trust_env=False).raise_for_status().json()
        loaded = {row["key"]: row["memory_bytes"] or 0 for row in rows["models"] if row["pid"] or row["container"]}
    except (httpx.HTTPError, ValueError, KeyError, AirLabError):
        return None  # none runs, or it is none of ours to ask: nothing is held as far as anybody can say
    if not loaded:
        return None
    held = f", {format_bytes(total)}" if (total := sum(loaded.values())) else ""
    return f"the AirLab at {url} has {', '.join(loaded)} loaded{held}: that memory is not measured in"
