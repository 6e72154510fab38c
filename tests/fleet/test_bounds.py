"""What a container may use of a host: GPUs, memory, nodes and processors that its engine's section gives, no more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fleet.bounds import by_node, gpu_ids_within, room_within
from app.fleet.estimate import RAM, Demand
from app.fleet.fit import Fitted, Shortfall, find_fit
from app.fleet.memory import Booking, Budget, Reading, Room, room_for
from app.fleet.report import fit_report
from app.manifest.engine_sections import NativeEngineSection
from app.units import GIB, format_bytes
from tests.engines.containers import section
from tests.fakes import model_spec, run_spec
from tests.support.models import FOURTEEN, SEVEN, SEVENTY, SMALL, demand

CPUS = {"node 0": (*range(14), *range(28, 42)), "node 1": (*range(14, 28), *range(42, 56))}
XEONS = Reading(0.0, {"node 0": 120 * GIB, "node 1": 122 * GIB}, node_cpus=CPUS)
GPUS = {f"GPU {number}": 23 * GIB for number in range(4)}
UUIDS = {number: f"GPU-{number}0000000" for number in range(4)}
BOX = Room({RAM: 200 * GIB} | GPUS, gpu_ids=UUIDS)


def fitted(asked: Demand, room: Room) -> Fitted:
    found = find_fit(asked, room)
    assert isinstance(found, Fitted), found
    return found


def no(asked: Demand, room: Room) -> str:
    found = find_fit(asked, room)
    assert isinstance(found, Shortfall), found
    return found.message


def xeons(*others: Booking) -> Room:
    return room_for(XEONS, Budget(), others, all_threads=27)


def test_child_process_has_the_whole_room() -> None:
    assert room_within(NativeEngineSection(), BOX) == Room(BOX.free)


# GPUs.


@pytest.mark.parametrize(
    ("gpus", "ids"),
    [
        ("none", {}),
        ("all", {0: "0", 1: "1", 2: "2", 3: "3"}),
        (["1", "3"], {1: "1", 3: "3"}),
        (["GPU-20000000", "0"], {0: "0", 2: "GPU-20000000"}),
        (["9"], {}),
    ],
)
def test_gpus_are_those_that_the_section_names_by_its_own_names(gpus: Any, ids: dict[int, str]) -> None:
    assert gpu_ids_within(section(gpus=gpus), BOX) == ids
    assert room_within(section(gpus=gpus), BOX).gpus == tuple(ids)


def test_model_in_a_container_lies_on_one_gpu_where_it_fits() -> None:
    """The others stay free for other models, and it sees none of them."""
    fit = fitted(demand(FOURTEEN, engine=section(gpus="all")), BOX).fit
    assert (fit.gpus, fit.gpu_ids, fit.gpu_layers, fit.gpu_shares) == ((0,), ("0",), -1, ())


def test_model_in_a_container_is_split_over_the_gpus_of_its_section_alone() -> None:
    fit = fitted(demand(SEVENTY, context_length=8192, engine=section(gpus=["0", "GPU-20000000", "3"])), BOX).fit
    assert (fit.gpus, fit.gpu_ids) == ((0, 2, 3), ("0", "GPU-20000000", "3"))
    assert len(fit.gpu_shares) == 3


def test_gpu_whose_memory_nobody_knows_is_left_to_llama_server() -> None:
    found = fitted(demand(SEVEN, engine=section(gpus=["GPU-90000000"])), BOX)
    assert (found.fit.gpu_layers, found.fit.gpu_ids) == (None, ())


# Memory.


def test_container_whose_memory_is_too_small_is_refused_with_the_arithmetic() -> None:
    """Docker would start it, and the kernel would end it in the middle of a request."""
    message = no(demand(FOURTEEN, gpu_layers=0, engine=section(memory=8 * GIB)), Room({RAM: 28 * GIB}))
    assert message.startswith("m does not fit: on RAM it needs weights 8.4 GiB + KV cache of 1 x 4096 tokens 768.0 MiB")
    assert "and 8.0 GiB is all that its container may take there; to fix: more `memory` for its engine" in message


def test_container_with_memory_enough_keeps_within_it() -> None:
    """Old prompts too: what they may take is half of what its own bound leaves."""
    found = fitted(demand(FOURTEEN, gpu_layers=0, engine=section(memory=10 * GIB)), Room({RAM: 200 * GIB}))
    assert found.estimate.takes[RAM] <= 10 * GIB
    assert found.fit.cache_ram_mib < 512


def test_bound_of_a_container_holds_where_nobody_knows_the_hosts_memory() -> None:
    assert "all that its container may take" in no(
        demand(FOURTEEN, gpu_layers=0, engine=section(memory=8 * GIB)), Room({})
    )


def test_bound_of_a_container_is_for_all_nodes_together() -> None:
    asked: dict[str, Any] = {"numa": "distribute", "gpu_layers": 0}
    assert "on node 0 it needs" in no(demand(SEVENTY, engine=section(memory=40 * GIB), **asked), xeons())
    found = fitted(demand(SEVENTY, engine=section(memory=44 * GIB), **asked), xeons())
    assert sum(found.estimate.takes.values()) <= 44 * GIB


def test_host_that_has_less_than_the_container_may_take_is_what_is_short() -> None:
    message = no(demand(FOURTEEN, gpu_layers=0, engine=section(memory=20 * GIB)), Room({RAM: 8 * GIB}))
    assert "8.0 GiB is there for it; to fix: a shorter context_length" in message


# Nodes and processors.


def test_two_containers_lie_on_two_nodes_with_a_nodes_threads_each() -> None:
    asked = demand(SEVENTY, numa="per-node", threads=26, gpu_layers=0, engine=section())
    first = fitted(asked, xeons())
    second = fitted(asked, xeons(Booking(first.estimate.takes, {}, first.fit.threads)))

    assert (first.fit.node, first.fit.cpus, first.fit.threads) == (1, CPUS["node 1"], 13)
    assert (second.fit.node, second.fit.cpus, second.fit.threads) == (0, CPUS["node 0"], 13)


def test_small_models_lie_on_two_nodes_too() -> None:
    """Most memory is free where the first one is already: it is its threads that count."""
    asked = demand(SMALL, numa="per-node", threads=13, gpu_layers=0)
    first = fitted(asked, xeons())
    assert first.fit.node == 1
    second = fitted(asked, xeons(Booking(first.estimate.takes, {}, first.fit.threads)))
    assert (second.fit.node, second.fit.threads) == (0, 13)


def test_node_whose_threads_are_taken_gives_no_more_of_them() -> None:
    """The memory of the other one is full, so two models work on one: with no more threads than it has cores."""
    reading = Reading(0.0, {"node 0": GIB, "node 1": 122 * GIB}, node_cpus=CPUS)
    asked = demand(SEVEN, numa="per-node", threads=10, gpu_layers=0)
    first = fitted(asked, room_for(reading, Budget(), (), all_threads=27))
    beside = Booking(first.estimate.takes, {}, first.fit.threads)
    second = fitted(asked, room_for(reading, Budget(), [beside], all_threads=27))

    assert (first.fit.node, first.fit.threads) == (1, 10)
    assert (second.fit.node, second.fit.threads) == (1, 3)


def test_model_that_is_spread_works_on_every_node() -> None:
    spread = Booking({"node 0": GIB, "node 1": GIB}, {}, 20)
    assert xeons(spread).node_threads == {"node 0": 3, "node 1": 3}


def test_section_that_names_nodes_leaves_none_to_choose_and_its_memory_lies_there() -> None:
    engine = section(mems="0", cpuset="0-13")
    fit = fitted(demand(SEVEN, numa="per-node", threads=26, gpu_layers=0, engine=engine), xeons())
    assert (fit.fit.node, fit.fit.cpus, set(fit.estimate.takes)) == (None, (), {"node 0"})
    full = Booking({"node 0": 118 * GIB}, {})
    assert "on node 0" in no(demand(SEVEN, numa="per-node", gpu_layers=0, engine=engine), xeons(full))


@pytest.mark.parametrize(("others", "threads"), [((), 4), ((Booking({}, {}, 3),), 1), ((Booking({}, {}, 24),), 1)])
def test_threads_are_no_more_than_the_processors_that_the_section_names(
    others: tuple[Booking, ...], threads: int
) -> None:
    engine = section(cpuset="0-3")
    assert fitted(demand(SEVEN, threads=26, gpu_layers=0, engine=engine), xeons(*others)).fit.threads == threads


ASKED = st.lists(
    st.builds(
        demand,
        st.sampled_from([SMALL, SEVEN, SEVENTY]),
        numa=st.sampled_from(["off", "distribute", "per-node"]),
        threads=st.integers(1, 27),
        gpu_layers=st.just(0),
        engine=st.sampled_from([NativeEngineSection(), section(), section(cpuset="0-3"), section(mems="1")]),
    ),
    max_size=6,
)


@given(ASKED)
def test_threads_of_all_engines_together_are_never_more_than_the_cores_less_one(asked: list[Demand]) -> None:
    """One each they have at least; and of those that keep to a node, no more than it has cores."""
    booked: list[Booking] = []
    kept: dict[int, list[int]] = {0: [], 1: []}
    for each in asked:
        found = find_fit(each, xeons(*booked))
        if isinstance(found, Fitted):
            booked.append(Booking(found.estimate.takes, {}, found.fit.threads))
            if found.fit.node is not None:
                kept[found.fit.node].append(found.fit.threads)
    assert sum(booking.threads for booking in booked) <= 27 + max(0, len(booked) - 1)
    for threads in kept.values():
        assert sum(threads) <= 13 + max(0, len(threads) - 1)


@pytest.mark.parametrize("memory", [None, 20 * GIB])
def test_report_tells_what_a_container_has_and_not_what_the_host_has(memory: int | None) -> None:
    asked = demand(SEVEN, gpu_layers=0, engine=section(memory=memory))
    told = fit_report(asked, Room({RAM: 200 * GIB}), Room({RAM: 200 * GIB}))

    assert told["devices"][0]["free_bytes"] == (memory or 200 * GIB)
    assert f" of {format_bytes(memory or 200 * GIB)} on RAM" in told["message"]


def test_nodes_are_looked_at_where_anybody_is_kept_to_one() -> None:
    specs = {
        False: model_spec("a", run_spec(engine=section(cpuset="0-3"), numa="distribute")),
        True: model_spec("b", run_spec(engine=section(mems="0"))),
    }
    for expected, spec in specs.items():
        assert by_node([spec]) is expected
    assert by_node([model_spec("c", run_spec(numa="per-node"))])
