"""What of a host a container gets: what the fleet decided for it, and never more than the manifest gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.devices.cpu import Node, parse_cpu_list
from app.engines.base import Fit
from app.engines.container import body_of
from app.engines.placement import Placement, cpu_list, place
from app.errors import EngineError
from app.units import GIB
from tests.engines.containers import container_run, order, section

TWO_XEONS = (
    Node((*range(14), *range(28, 42)), 128 * GIB, 0),
    Node((*range(14, 28), *range(42, 56)), 128 * GIB, 1),
)
UUID = "GPU-5f7c2b1e-0000-4000-8000-000000000001"


def fit(**more: Any) -> Fit:
    return Fit(**{"context_length": 4096, "slots": 1, "gpu_layers": 0, "threads": 13, **more})


@pytest.mark.parametrize(("node", "cpus"), [(0, "0-13,28-41"), (1, "14-27,42-55")])
def test_container_keeps_to_the_node_on_which_its_memory_was_booked(node: int, cpus: str) -> None:
    """There is no second choice: what the fleet's books say is where it runs."""
    placement = place(section(), fit(node=node), TWO_XEONS)
    host = body_of(order(container_run(), placement))["HostConfig"]

    assert (host["CpusetCpus"], host["CpusetMems"]) == (cpus, str(node))


def test_nodes_go_by_the_kernels_numbers() -> None:
    """Some hosts leave numbers out."""
    nodes = (Node((0, 1), GIB, 0), Node((2, 3), GIB, 2))

    assert place(section(), fit(node=2), nodes) == Placement("2-3", "2")


def test_model_of_no_node_runs_anywhere() -> None:
    assert place(section(), fit(), TWO_XEONS) == Placement()


def test_container_that_keeps_to_a_node_is_told_nothing_of_nodes() -> None:
    """The cpuset says it all; llama-server would look for nodes that it does not have."""
    kept = fit(node=1, cpus=TWO_XEONS[1].cpus)
    body = body_of(order(container_run(numa="per-node"), place(section(), kept, TWO_XEONS), fit=kept))

    assert "--numa" not in body["Cmd"]


def test_model_larger_than_a_node_spreads_over_all() -> None:
    body = body_of(order(container_run(numa="per-node"), place(section(), fit(), TWO_XEONS), fit=fit()))

    assert body["Cmd"][body["Cmd"].index("--numa") + 1] == "distribute"
    assert body["HostConfig"]["CpusetCpus"] == body["HostConfig"]["CpusetMems"] == ""


def test_what_the_manifest_says_of_processors_holds() -> None:
    given = section(cpuset="0-3", mems="1")
    placement = place(given, fit(), TWO_XEONS)

    assert placement == Placement("0-3", "1")
    engine = {"cpuset": "0-3", "mems": "1"}
    assert "--numa" not in body_of(order(container_run(engine=engine, numa="distribute"), placement))["Cmd"]


@pytest.mark.parametrize("given", [{"cpuset": "0-3"}, {"mems": "0"}])
def test_node_beside_what_the_manifest_says_of_processors_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(EngineError, match="NUMA node 0, and the manifest says cpuset or mems itself"):
        place(section(**given), fit(node=0), TWO_XEONS)


@pytest.mark.parametrize("nodes", [(), TWO_XEONS, (*TWO_XEONS, Node((), 512 * GIB, 2))])
def test_node_that_this_host_has_not_is_refused(nodes: tuple[Node, ...]) -> None:
    """Memory on an expander card is a node, too, and has no processors."""
    with pytest.raises(EngineError, match="NUMA node 2, which has no processors on this host"):
        place(section(), fit(node=2), nodes)


@pytest.mark.parametrize(
    ("gpus", "chosen", "handed"),
    [
        ("all", ("2",), ["2"]),
        ("all", ("0", "1", "2", "3"), ["0", "1", "2", "3"]),
        (["0", UUID], (UUID,), [UUID]),
        (["1", "3"], ("3",), ["3"]),
        (["1", "3"], (), ["1", "3"]),
    ],
)
def test_container_is_handed_the_gpus_that_were_chosen(gpus: Any, chosen: tuple[str, ...], handed: list[str]) -> None:
    """Where none was chosen, since nobody knows their memory, it is those that the manifest gives."""
    decided = fit(gpu_layers=-1, gpu_ids=chosen)
    run = container_run(engine={"gpus": gpus})
    [asked] = body_of(order(run, place(section(gpus=gpus), decided, ()), fit=decided))["HostConfig"]["DeviceRequests"]

    assert (asked["Driver"], asked["Count"], asked["DeviceIDs"]) == ("nvidia", 0, handed)


def test_all_gpus_are_handed_on_where_nobody_knows_which_there_are() -> None:
    decided = fit(gpu_layers=None)
    body = body_of(order(container_run(), place(section(gpus="all"), decided, ()), fit=decided))
    [asked] = body["HostConfig"]["DeviceRequests"]

    assert (asked["Count"], asked["DeviceIDs"]) == (-1, None)
    assert "--fit" not in body["Cmd"], "llama-server fits by itself then"


def test_model_without_a_layer_on_a_gpu_sees_none() -> None:
    """One that it could see would keep a context for it, in memory that was booked for nobody."""
    body = body_of(order(container_run(), place(section(gpus="all"), fit(gpu_layers=0), ()), fit=fit(gpu_layers=0)))

    assert body["HostConfig"]["DeviceRequests"] is None
    assert "NVIDIA_VISIBLE_DEVICES=void" in body["Env"], "where NVIDIA's runtime is Docker's default, too"


def test_layers_are_shared_among_several_gpus_in_the_order_of_their_numbers() -> None:
    decided = fit(gpu_layers=-1, gpu_ids=("0", "3"), gpu_shares=(23_000, 12_000))
    body = body_of(order(container_run(), place(section(gpus="all"), decided, ()), fit=decided))
    told = dict(zip(body["Cmd"], body["Cmd"][1:], strict=False))

    assert (told["--split-mode"], told["--tensor-split"], told["--fit"]) == ("layer", "23000,12000", "off")
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in body["Env"]


@pytest.mark.parametrize(
    ("gpus", "asked"),
    [
        ("none", ("0",)),
        (["1", "3"], ("0",)),
        (["1", "3"], ("1", "2")),
        (["0"], (UUID,)),
        ("all", (UUID,)),
        ("all", ("all",)),
    ],
)
@pytest.mark.parametrize("gpu_layers", [-1, 0])
def test_gpu_that_the_manifest_does_not_give_is_refused(gpus: Any, asked: tuple[str, ...], gpu_layers: int) -> None:
    with pytest.raises(EngineError, match="a container was to have the GPU"):
        place(section(gpus=gpus), fit(gpu_layers=gpu_layers, gpu_ids=asked), ())


IDS = st.sampled_from(["0", "1", "2", "3", UUID])


@given(
    st.one_of(st.just("all"), st.just("none"), st.lists(IDS, min_size=1, unique=True)),
    st.lists(IDS, unique=True).map(tuple),
    st.none() | st.integers(0, 3),
    st.sampled_from([None, "0-3"]),
    st.sampled_from([-1, 0, 7, None]),
)
def test_whatever_is_asked_nothing_beyond_the_manifest_is_got(
    gpus: Any, asked: tuple[str, ...], node: int | None, cpuset: str | None, gpu_layers: int | None
) -> None:
    given = section(gpus=gpus, cpuset=cpuset)
    try:
        placement = place(given, fit(gpu_ids=asked, node=node, gpu_layers=gpu_layers), TWO_XEONS)
    except EngineError:
        return
    got = ("all",) if placement.gpus is None else placement.gpus
    assert gpus == "all" or set(got) <= set(() if gpus == "none" else gpus)
    assert cpuset is None or placement.cpus == cpuset
    if asked:
        assert placement.gpus == asked, "exactly what was chosen, or a no"


@pytest.mark.parametrize(("cpus", "text"), [((), ""), ((3,), "3"), ((0, 1, 2), "0-2"), ((5, 1, 0, 7, 8), "0-1,5,7-8")])
def test_processors_are_written_as_the_kernel_does(cpus: tuple[int, ...], text: str) -> None:
    assert cpu_list(cpus) == text
    assert parse_cpu_list(text) == tuple(sorted(cpus))
