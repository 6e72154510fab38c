"""Machines that are not here, with models in containers: what ``airlab plan`` says, and what starts side by side.

Written out in ``tests/devices/hosts/NAME/containers.txt``; ``python -m tests.cli.test_recorded_hosts --write`` writes
them anew: look at what changed. The models are files of the size of real ones, all of it holes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.cli import containers, manifest
from app.devices.cpu import numa_nodes
from app.devices.gpus import Gpu
from app.devices.probe import Host
from app.engines.base import Fit
from app.engines.command import as_written
from app.fleet.decide import decide
from app.fleet.estimate import RAM
from app.fleet.meter import HostMeter
from app.fleet.spec import with_fit
from app.fleet.states import FleetState, Limits, Start, WaiterFacts
from app.live import inputs
from app.live.snapshot import Snapshot
from app.manifest.load import read_manifest
from app.settings import Settings, read_settings
from app.units import GIB, MIB
from tests.devices.recorded import HOSTS, lay_out
from tests.support.models import FOURTEEN, SEVEN, SEVENTY, SMALL, THREE, lay_model
from tests.support.service import ROOT

LAUNCHER = "/run/airlab/launcher/launcher.sock"
"""With a launcher, ``airlab plan`` needs no Docker."""
FOUR_GPUS = """
version: 1
default_model: first
profiles:
  box:
    match: {gpu: RTX 3090}
    engine: {kind: docker, image: "airlab:cuda", gpus: GPUS}
    max_loaded: auto
    parallel: 2
models:
  first: {filename: first.gguf, context_length: 16k}
  second: {filename: second.gguf, context_length: 16k}
  third: {filename: third.gguf, context_length: 16k}
  fourth: {filename: fourth.gguf, context_length: 16k}
  seventy: {filename: seventy.gguf, context_length: 8k}
  on-the-processor: {filename: seventy.gguf, context_length: 8k, n_gpu_layers: 0}
"""
FOURTEENS, ALONE = ("first", "second", "third", "fourth"), ("first", "seventy", "on-the-processor")
BOX_FILES = {f"{name}.gguf": FOURTEEN for name in FOURTEENS} | {"seventy.gguf": SEVENTY}
SHIPPED_FILES = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": SMALL,
    "Qwen2.5-7B-Instruct-Q4_K_M.gguf": SEVEN,
    "qwen2.5-3b-instruct-q4_k_m.gguf": THREE,
}
SHIPPED = (ROOT / "airlab.yaml").read_text()
UUID_OF_3 = "GPU-3f3c2a1e-7b64-4d0f-9c55-0a1b2c3d4e53"


@dataclass(frozen=True)
class Case:
    """One machine and what is to run there."""

    host: str
    text: str
    """The manifest."""
    files: dict[str, Any]
    together: tuple[str, ...]
    """Models that are asked for at the same moment."""
    alone: tuple[str, ...] = ()
    """Models whose plan is written out; empty for all."""
    written: str = "containers.txt"
    is_in_a_container: bool = False
    """Whether AirLab runs in one itself, and so sees no GPU."""


CASES = {
    "gaming-pc": Case("gaming-pc", SHIPPED, SHIPPED_FILES, ("qwen2.5-7b-q4",)),
    "dl380": Case("dl380", SHIPPED, SHIPPED_FILES, ("qwen2.5-7b-q4", "qwen2.5-3b-q4")),
    "dl380-t4": Case("dl380-t4", SHIPPED, SHIPPED_FILES, ("qwen2.5-7b-q4",)),
    "four-gpus": Case("four-gpus", FOUR_GPUS.replace("GPUS", "all"), BOX_FILES, FOURTEENS, ALONE),
    "two-of-four": Case(
        "four-gpus",
        FOUR_GPUS.replace("GPUS", f'["1", {UUID_OF_3}], memory: 40GiB'),
        BOX_FILES,
        FOURTEENS[:3],
        ALONE,
        "two-of-four.txt",
    ),
    "unseen": Case("four-gpus", FOUR_GPUS.replace("GPUS", "all"), BOX_FILES, FOURTEENS, ALONE, "unseen.txt", True),
}


class Lab:
    """The machine, with the manifest and the files laid out in a folder; AirLab takes it for the one that it is on."""

    def __init__(self, case: Case, folder: Path, patch: pytest.MonkeyPatch) -> None:
        machine = lay_out(case.host, folder / "machine")
        (folder / "models").mkdir()
        for name, facts in case.files.items():
            lay_model(folder / "models" / name, facts)
        (folder / "airlab.yaml").write_text(case.text)
        for name in ("AIRLAB_HOME", "AIRLAB_PROFILE", "N_GPU_LAYERS", "LLAMA_CACHE", "LLAMA_SERVER_PATH"):
            patch.delenv(name, raising=False)
        patch.setenv("AIRLAB_MANIFEST", str(folder / "airlab.yaml"))
        patch.setenv("AIRLAB_STATE_DIR", str(folder / "state"))
        patch.setenv("AIRLAB_LAUNCHER", LAUNCHER)
        host = machine.look(patch)
        if case.is_in_a_container:
            (machine.programs / "nvidia-smi").unlink()  # the launcher told of the GPUs, and nobody here can
        patch.setattr(inputs, "HostMeter", partial(HostMeter, root=machine.root))
        patch.setattr(manifest, "probe", lambda *_: host)
        patch.setattr(containers, "host_nodes", partial(numa_nodes, machine.root))
        self.folder, self.settings, self._case = folder, read_settings(), case

    def planned(self) -> list[dict[str, Any]]:
        """What ``airlab plan --json`` prints of the models that are here."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert manifest.plan(argparse.Namespace(file=None, profile=None, json=True)) == 0
        entries: list[dict[str, Any]] = json.loads(said.getvalue())["models"]
        return [entry for entry in entries if entry["memory"]]

    def started(self, *keys: str) -> Iterator[tuple[str, Fit, dict[str, Any]]]:
        """What the fleet starts when all of these are asked for at once: the fit and the container of each."""
        snapshot: Snapshot = manifest._snapshot(read_manifest(self.settings.manifest), self.settings)
        memory = manifest._memory(snapshot, self.settings)
        waiters = tuple(WaiterFacts(n, key, 0.0, 1e9, takes_slot=True) for n, key in enumerate(keys))
        places = snapshot.profile.section.max_loaded
        most = 32 if places == "auto" else places
        state = FleetState(snapshot.models, (), waiters, {}, frozenset(), most, shutting_down=False, memory=memory)
        for action in decide(state, Limits(), now_s=1.0):
            if isinstance(action, Start):
                spec, fit = snapshot.models[action.key], action.fitted.fit if action.fitted else None
                settled = with_fit(spec, fit or as_written(spec.run))
                told = containers.planned_container(action.key, settled.run, f"0-{action.key}", self.settings, fit)
                assert fit is not None
                yield action.key, fit, told["container"]

    def report(self) -> str:
        """All of it in words."""
        lines: list[str] = []
        together = self._case.together
        for entry in self.planned():
            if self._case.alone and entry["key"] not in self._case.alone:
                continue
            lines += [f"{entry['key']}: {entry['problem'] or 'alone'}", *_container(entry["container"])]
            lines += [f"    memory, {line}" for line in entry["memory"]]
        for key, _, body in self.started(*together):
            lines += [f"{key}: beside the others of {', '.join(together)}", *_container(body)]
        return "\n".join(lines).replace(str(self.folder), "/lab") + "\n"


def _container(body: dict[str, Any] | None) -> Iterator[str]:
    """What of a container follows from where it goes; the rest is the same for all."""
    if body is None:
        return
    host = body["HostConfig"]
    names = ("CpusetCpus", "CpusetMems", "Memory", "DeviceRequests")
    yield from (f"    {name} {json.dumps(host[name])}" for name in names if host[name])
    yield f"    Env {' '.join(body['Env'])}"
    yield from f"    {' '.join(body['Cmd'])}".replace(" --", "\n        --").splitlines()[1:]


@pytest.fixture
def lab(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(CASES[name], tmp_path, monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_containers_of_a_recorded_host_are_exactly_these(name: str, lab: Lab) -> None:
    """A flag or a place that changes for a host, changes there first."""
    case = CASES[name]
    assert lab.report() == (HOSTS / case.host / case.written).read_text()


@pytest.mark.parametrize("name", ["four-gpus", "unseen"])
def test_four_models_lie_on_four_gpus(lab: Lab) -> None:
    fits = {key: fit for key, fit, _ in lab.started(*FOURTEENS)}

    assert sorted(fit.gpus for fit in fits.values()) == [(0,), (1,), (2,), (3,)]
    assert sum(fit.busy_threads for fit in fits.values()) <= 23, "of 24 cores one is left to the rest"


@pytest.mark.parametrize("name", ["four-gpus"])
def test_one_large_model_is_split_over_all_gpus(lab: Lab) -> None:
    [(_, fit, body)] = lab.started("seventy")

    assert (fit.gpus, fit.gpu_layers) == ((0, 1, 2, 3), -1)
    [asked] = body["HostConfig"]["DeviceRequests"]
    assert asked["DeviceIDs"] == ["0", "1", "2", "3"]
    shares = body["Cmd"][body["Cmd"].index("--tensor-split") + 1]
    assert shares == "23881,24124,24124,24124"


@pytest.mark.parametrize("name", ["unseen"])
def test_airlab_in_a_container_books_on_gpus_that_the_launcher_told_of(lab: Lab) -> None:
    """Of each card a sixteenth is left alone, and all that others of ours were promised."""
    memory = manifest._memory(manifest._snapshot(read_manifest(lab.settings.manifest), lab.settings), lab.settings)

    assert memory.reading is not None
    assert memory.reading.sizes == {f"GPU {number}" for number in range(4)}
    assert {size for name, size in memory.reading.free.items() if name in memory.reading.sizes} == {23_040 * MIB}


def test_gpu_that_shares_the_hosts_memory_is_left_to_llama_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no size of its own, which is not to say that nothing fits there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    gpus = (Gpu("NVIDIA GB10", None, 12.1, "580.95"), Gpu("RTX 3090", 24 * GIB, 8.6, "580.95"), Gpu("Some iGPU", GIB))
    host = Host(cores=4, can_offload=True, gpus=gpus)
    meter = inputs.host_memory(host, Settings(), base_bytes=0).meter
    reading = asyncio.run(meter.read({}, by_node=False))

    assert {name: size for name, size in reading.free.items() if name != RAM} == {"GPU 1": 24 * GIB * 15 // 16}


@pytest.mark.parametrize("name", ["two-of-four"])
def test_third_model_finds_the_two_gpus_of_the_section_taken(lab: Lab) -> None:
    """The other two are free, and the manifest gives them to nobody: it is split over what is left of its own."""
    fits = {key: fit for key, fit, _ in lab.started("first", "second", "third")}

    assert [fits[key].gpu_ids for key in ("first", "second")] == [("1",), (UUID_OF_3,)]
    assert set(fits["third"].gpus) <= {1, 3}


@pytest.mark.parametrize("name", ["two-of-four"])
def test_plan_refuses_what_the_containers_memory_does_not_hold(lab: Lab) -> None:
    [entry] = [entry for entry in lab.planned() if entry["key"] == "on-the-processor"]

    assert entry["container"] is None
    assert "40.0 GiB is all that its container may take there; to fix: more `memory` for its engine" in entry["problem"]


@pytest.mark.parametrize("name", ["dl380"])
def test_two_models_in_containers_lie_on_two_sockets(lab: Lab) -> None:
    """And what their memory was booked on is where they run."""
    started = list(lab.started("qwen2.5-7b-q4", "qwen2.5-3b-q4"))
    sets = [(body["HostConfig"]["CpusetCpus"], body["HostConfig"]["CpusetMems"]) for _, _, body in started]

    assert sorted(sets) == [("0-13,28-41", "0"), ("14-27,42-55", "1")]
    assert sum(fit.threads for _, fit, _ in started) <= 27
    assert {f"node {fit.node}": cpus for (_, fit, _), (cpus, _) in zip(started, sets, strict=True)} == {
        "node 0": "0-13,28-41",
        "node 1": "14-27,42-55",
    }


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for each in CASES.values():
        with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patching:
            made = Lab(each, Path(name), patching)
            (HOSTS / each.host / each.written).write_text(made.report())
