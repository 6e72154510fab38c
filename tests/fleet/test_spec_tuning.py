"""How a model is run here: of N_GPU_LAYERS, ``on``, model, profile and host, the first that says something wins."""

from __future__ import annotations

from typing import Any

import pytest

from app.devices.cpu import Node
from app.devices.probe import Host
from app.devices.profiles import choose_profile
from app.engines.base import RunSpec
from app.fleet.spec import model_specs
from app.weights.inventory import Inventory
from tests.support.manifest import loaded

HOST = Host(cores=8, can_offload=True)
ALL = {"n_gpu_layers": 1, "n_threads": 1, "parallel": 1, "cache_type": "q4_0", "numa": "off"}
MODEL = {"n_gpu_layers": 2, "n_threads": 2, "parallel": 2, "cache_type": "q8_0", "numa": "distribute"}
HERE = {"n_gpu_layers": 3, "n_threads": 3, "parallel": 3, "cache_type": "f16", "numa": "off"}


def run_of(
    model: dict[str, Any], profile: dict[str, Any] | None = None, *, host: Host = HOST, layers: int | None = None
) -> RunSpec:
    """The run of one model under the profile ``here``."""
    profiles = {"here": profile or {}, "elsewhere": {}}
    manifest = loaded("a", {"a": {"filename": "a.gguf", **model}}, profiles=profiles).manifest
    choice = choose_profile(manifest.profiles, host, forced=None)
    return model_specs(manifest, choice, host, Inventory(), forced_gpu_layers=layers)["a"].run


def tuned(run: RunSpec) -> tuple[int | None, int, int | None, str | None, str]:
    return run.gpu_layers, run.threads, run.slots, run.cache_type, run.numa


def test_host_decides_where_nobody_says_anything() -> None:
    assert tuned(run_of({})) == (None, 7, 1, None, "off")


def test_profile_wins_over_the_host() -> None:
    assert tuned(run_of({}, ALL)) == (1, 1, 1, "q4_0", "off")


def test_model_wins_over_the_profile() -> None:
    assert tuned(run_of(MODEL, ALL)) == (2, 2, 2, "q8_0", "distribute")


def test_override_for_this_profile_wins_over_the_model() -> None:
    assert tuned(run_of(MODEL | {"on": {"here": HERE}}, ALL)) == (3, 3, 3, "f16", "off")


def test_override_for_another_profile_changes_nothing() -> None:
    assert run_of(MODEL | {"on": {"elsewhere": HERE}}, ALL) == run_of(MODEL, ALL)


def test_override_leaves_what_it_does_not_name() -> None:
    assert tuned(run_of(MODEL | {"on": {"here": {"n_threads": 5}}}, ALL)) == (2, 5, 2, "q8_0", "distribute")


def test_none_of_the_layers_is_a_value_and_no_absence() -> None:
    assert run_of(MODEL | {"on": {"here": {"n_gpu_layers": 0}}}, ALL).gpu_layers == 0
    assert run_of({"n_gpu_layers": 0}, ALL).gpu_layers == 0


@pytest.mark.parametrize("layers", [-1, 0, 9])
def test_layers_of_the_environment_win_over_everything(layers: int) -> None:
    assert run_of(MODEL | {"on": {"here": HERE}}, ALL, layers=layers).gpu_layers == layers


def test_no_layer_goes_to_a_gpu_that_there_is_not() -> None:
    run = run_of(MODEL | {"on": {"here": HERE}}, ALL, host=Host(cores=8, can_offload=False), layers=-1)
    assert run.gpu_layers == 0


@pytest.mark.parametrize("name", ["context_length", "n_ctx"])
def test_context_of_this_profile_goes_by_both_of_its_names(name: str) -> None:
    assert run_of({"context_length": "8k", "on": {"here": {name: "64k"}}}).context_length == 65_536
    assert run_of({"context_length": "8k", "on": {"elsewhere": {name: "64k"}}}).context_length == 8192


DOCKER = {"kind": "docker", "image": "lab:1"}
TWO_NODES = Host(cores=28, can_offload=False, numa_nodes=(Node((0,), None, 0), Node((1,), None, 1)))


def test_container_gets_layers_for_the_gpus_that_it_names() -> None:
    """What a llama-server of this host could use says nothing of what a container is handed."""
    layers = {"n_gpu_layers": 9}

    assert run_of({}, {"engine": {**DOCKER, "gpus": "all"}, **layers}, host=TWO_NODES).gpu_layers == 9
    assert run_of({}, {"engine": DOCKER, **layers}).gpu_layers == 0


@pytest.mark.parametrize(("engines", "threads"), [(1, 13), (2, 13), (4, 6), (3, 6)])
def test_models_that_keep_to_a_node_share_its_cores_only(engines: int, threads: int) -> None:
    profile = {"engine": DOCKER, "numa": "per-node", "max_loaded": engines}

    assert run_of({}, profile, host=TWO_NODES).threads == threads
    assert run_of({}, profile | {"numa": "off"}, host=TWO_NODES).threads == 27 // engines
