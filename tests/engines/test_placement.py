"""NUMA: which processors and which memory a container gets, on a host with two nodes that is only told of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.devices.cpu import Node
from app.engines.base import RunSpec, WeightsId
from app.engines.container import body_of
from app.engines.placement import Placement, cpu_list, place
from app.manifest.schema import Numa
from app.units import GIB
from tests.engines.containers import container_run, order, section

TWO_XEONS = (
    Node((*range(14), *range(28, 42)), 128 * GIB),
    Node((*range(14, 28), *range(42, 56)), 128 * GIB),
)
FIRST, SECOND = Placement("0-13,28-41", "0", 0), Placement("14-27,42-55", "1", 1)


def run_of(size_bytes: int, numa: Numa = "per-node") -> RunSpec:
    run = container_run(numa=numa)
    return replace(run, weights=WeightsId(Path("/models/m.gguf"), size_bytes, 1))


def test_models_go_to_the_emptiest_node() -> None:
    run = run_of(5 * GIB)

    assert place(run, section(), TWO_XEONS, ()) == FIRST
    assert place(run, section(), TWO_XEONS, (0,)) == SECOND
    assert place(run, section(), TWO_XEONS, (0, 1)) == FIRST
    assert place(run, section(), TWO_XEONS, (1, 1, 0)) == FIRST


def test_model_larger_than_a_node_spreads_over_all() -> None:
    run = run_of(120 * GIB)
    placement = place(run, section(), TWO_XEONS, ())

    assert placement == Placement(spreads=True)
    told = body_of(order(run, placement))["Cmd"]
    assert told[told.index("--numa") + 1] == "distribute"


def test_container_that_keeps_to_a_node_is_told_nothing_of_nodes() -> None:
    """The cpuset says it all; llama-server would look for nodes that it does not have."""
    body = body_of(order(run_of(GIB), SECOND))

    assert "--numa" not in body["Cmd"]
    assert (body["HostConfig"]["CpusetCpus"], body["HostConfig"]["CpusetMems"]) == ("14-27,42-55", "1")


@pytest.mark.parametrize("nodes", [(), TWO_XEONS[:1]])
def test_host_with_one_node_needs_no_placement(nodes: tuple[Node, ...]) -> None:
    assert place(run_of(GIB), section(), nodes, ()) == Placement()


def test_what_the_manifest_says_of_processors_wins() -> None:
    given = section(cpuset="0-3", mems="1")

    assert place(run_of(GIB), given, TWO_XEONS, ()) == Placement("0-3", "1")


def test_distribute_and_off_are_left_to_llama_server() -> None:
    assert place(run_of(GIB, numa="distribute"), section(), TWO_XEONS, ()) == Placement(spreads=True)
    assert place(run_of(GIB, numa="off"), section(), TWO_XEONS, ()) == Placement()


def test_node_without_processors_takes_no_model() -> None:
    """Memory on an expander card is a node, too."""
    nodes = (*TWO_XEONS, Node((), 512 * GIB))

    assert place(run_of(120 * GIB), section(), nodes, ()) == Placement(spreads=True)


@pytest.mark.parametrize(("cpus", "text"), [((), ""), ((3,), "3"), ((0, 1, 2), "0-2"), ((5, 1, 0, 7, 8), "0-1,5,7-8")])
def test_processors_are_written_as_the_kernel_does(cpus: tuple[int, ...], text: str) -> None:
    assert cpu_list(cpus) == text
