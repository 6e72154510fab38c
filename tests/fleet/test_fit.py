"""What AirLab decides on hosts that are not here: layers, contexts, slots, GPUs and nodes, or the arithmetic of the no.

The hosts: a gaming PC (one GPU of 16 GB, 32 GB), two Xeons (two nodes, 256 GB), a box with four GPUs of 24 GB.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.fleet.estimate import RAM, Demand, Draft
from app.fleet.fit import Fitted, Shortfall, find_fit
from app.fleet.memory import Budget, Reading, Room, room_for
from app.units import GIB, MIB
from app.weights.gguf import GgufFacts
from tests.support.models import FOURTEEN, SEVEN, SEVENTY, SMALL, THIRTY_TWO, demand

GAMING_PC = Room({RAM: 28 * GIB, "GPU 0": 15 * GIB})
XEONS = Room(
    {"node 0": 120 * GIB, "node 1": 122 * GIB},
    {"node 0": (*range(14), *range(28, 42)), "node 1": (*range(14, 28), *range(42, 56))},
)
FOUR_GPUS = Room({RAM: 200 * GIB} | {f"GPU {number}": 23 * GIB for number in range(4)})


def fitted(asked: Demand, room: Room) -> Fitted:
    found = find_fit(asked, room)
    assert isinstance(found, Fitted), found
    assert all(size <= room.free[device] for device, size in found.estimate.takes.items() if device in room.free)
    return found


def no(asked: Demand, room: Room) -> str:
    found = find_fit(asked, room)
    assert isinstance(found, Shortfall), found
    return found.message


def auto(facts: GgufFacts, **run: Any) -> Demand:
    return demand(facts, **{"context_length": None, "slots": None, **run})


# The gaming PC.


def test_model_that_fits_lies_on_the_gpu_as_a_whole() -> None:
    fit = fitted(demand(SEVEN, context_length=32_768, slots=2), GAMING_PC).fit
    assert (fit.gpus, fit.gpu_layers, fit.context_length, fit.slots) == ((0,), -1, 32_768, 2)


def test_model_that_does_not_fit_lies_there_with_as_many_layers_as_do() -> None:
    asked = demand(THIRTY_TWO, context_length=8192)
    fit = fitted(asked, GAMING_PC).fit
    assert fit.gpus == (0,)
    assert fit.gpu_layers is not None
    assert 20 < fit.gpu_layers < 64
    more = demand(THIRTY_TWO, context_length=8192, gpu_layers=fit.gpu_layers + 1)
    assert "on GPU 0" in no(more, GAMING_PC)


def test_gpu_that_is_full_leaves_the_model_to_the_processor() -> None:
    room = Room({RAM: 28 * GIB, "GPU 0": 300 * MIB})
    assert fitted(demand(SEVEN), room).fit.gpu_layers == 0


def test_layers_that_the_manifest_asks_for_are_not_bargained_about() -> None:
    message = no(demand(THIRTY_TWO, gpu_layers=-1), GAMING_PC)
    assert message.startswith("m does not fit: on GPU 0 it needs weights ")
    assert "15.0 GiB is there for it; to fix: a shorter context_length" in message
    assert "fewer n_gpu_layers" in message


def test_draft_model_takes_its_part_of_the_gpu_and_may_be_what_does_not_fit() -> None:
    """Of the layers that fit beside it there are fewer; and where none is to be had, to leave it out is one way."""
    asked = demand(FOURTEEN, context_length=16_384)
    alone = fitted(asked, GAMING_PC)
    drafted = replace(asked, draft=Draft(SEVEN, SEVEN.tensor_bytes or 0))
    beside = fitted(drafted, GAMING_PC)
    assert (alone.fit.gpu_layers, beside.fit.gpus) == (-1, (0,))
    assert beside.fit.gpu_layers is not None
    assert 0 < beside.fit.gpu_layers < 49

    crowded = Room({RAM: 10 * GIB, "GPU 0": 600 * MIB})
    assert "no draft_model" in no(drafted, crowded)
    assert "no draft_model" not in no(asked, crowded)


def test_model_that_fits_nowhere_is_refused_with_the_sum() -> None:
    message = no(demand(SEVENTY), Room({RAM: 24 * GIB, "GPU 0": 15 * GIB}))
    assert "on RAM it needs weights 39.6 GiB + KV cache of 1 x 4096 tokens 1.2 GiB" in message
    assert "24.0 GiB is there for it" in message


def test_long_context_falls_back_to_fewer_layers_rather_than_to_a_shorter_one() -> None:
    """The context was promised to whoever asks; where its layers lie was not."""
    fit = fitted(demand(FOURTEEN, context_length=32_768, slots=2), GAMING_PC).fit
    assert fit.context_length == 32_768
    assert fit.gpu_layers not in {-1, 0}


# What is left to AirLab.


def test_open_numbers_take_all_that_the_model_can_where_there_is_room() -> None:
    fit = fitted(auto(SEVEN), FOUR_GPUS).fit
    assert (fit.context_length, fit.slots, fit.gpu_layers) == (32_768, 4, -1)


def test_open_numbers_stop_before_it_gets_tight() -> None:
    room = Room({RAM: 8 * GIB})
    found = fitted(auto(SEVEN, gpu_layers=0), room)
    assert found.warning is None
    assert 8192 <= found.fit.context_length < 32_768
    assert found.fit.slots > 1


def test_open_context_is_at_most_what_the_model_was_trained_for() -> None:
    assert fitted(auto(SMALL), FOUR_GPUS).fit.context_length == 8192


def test_open_context_shrinks_before_a_model_is_refused() -> None:
    found = fitted(auto(SMALL, gpu_layers=0), Room({RAM: 240 * MIB}))
    assert (found.fit.context_length, found.fit.slots) == (4096, 1)


def test_written_context_is_not_shrunk() -> None:
    assert "8192 tokens" in no(demand(SMALL, context_length=8192, gpu_layers=0), Room({RAM: 240 * MIB}))


def test_old_prompts_get_half_of_what_is_left_and_keep_nobody_out() -> None:
    rich = fitted(demand(SMALL, gpu_layers=0), Room({RAM: 4 * GIB}))
    poor = fitted(demand(SMALL, gpu_layers=0), Room({RAM: 300 * MIB}))
    assert rich.fit.cache_ram_mib == 512
    assert 0 <= poor.fit.cache_ram_mib < 100


def test_tight_fit_is_warned_of() -> None:
    found = fitted(demand(SMALL, gpu_layers=0), Room({RAM: 250 * MIB}))
    assert found.warning is not None
    assert "of what is free on RAM" in found.warning


# Four GPUs.


def test_second_model_goes_to_another_gpu_where_the_first_has_no_room_left() -> None:
    first = fitted(demand(FOURTEEN, context_length=32_768), FOUR_GPUS)
    (gpu,) = first.fit.gpus
    left = dict(FOUR_GPUS.free)
    for device, size in first.estimate.takes.items():
        left[device] -= size
    second = fitted(demand(FOURTEEN, context_length=32_768), Room(left))
    assert second.fit.gpus != (gpu,)
    assert len(second.fit.gpus) == 1


def test_small_model_goes_where_it_leaves_the_empty_ones_to_larger_ones() -> None:
    room = Room(dict(FOUR_GPUS.free) | {"GPU 2": 8 * GIB})
    assert fitted(demand(SEVEN), room).fit.gpus == (2,)


def test_model_that_is_too_large_for_one_is_split_by_what_each_has() -> None:
    room = Room(dict(FOUR_GPUS.free) | {"GPU 3": 12 * GIB})
    fit = fitted(demand(SEVENTY, context_length=8192), room).fit
    assert (fit.gpus, fit.gpu_layers) == ((0, 1, 2, 3), -1)
    assert fit.gpu_shares[0] == pytest.approx(fit.gpu_shares[3] * 23 / 12, rel=0.01)


# Two nodes.


def test_two_models_lie_on_two_nodes() -> None:
    first = fitted(demand(SEVENTY, numa="per-node", threads=26, gpu_layers=0), XEONS)
    left = {device: size - first.estimate.takes.get(device, 0) for device, size in XEONS.free.items()}
    second = fitted(demand(SEVENTY, numa="per-node", threads=26, gpu_layers=0), Room(left, XEONS.node_cpus))
    assert first.fit.cpus == XEONS.node_cpus["node 1"], "the one with most room"
    assert second.fit.cpus == XEONS.node_cpus["node 0"]
    assert set(first.estimate.takes) == {"node 1"}


def test_node_works_with_as_many_threads_as_it_has_cores() -> None:
    """Of 28 logical processors half are the other halves of 14 cores."""
    room = room_for(Reading(0.0, XEONS.free, node_cpus=XEONS.node_cpus), Budget(), (), all_threads=27)
    assert fitted(demand(SEVEN, numa="per-node", threads=26, gpu_layers=0), room).fit.threads == 13
    assert fitted(demand(SEVEN, numa="distribute", threads=26, gpu_layers=0), room).fit.threads == 26


def test_model_that_is_larger_than_a_node_is_spread_over_both() -> None:
    asked = demand(SEVENTY, numa="per-node", context_length=131_072, slots=3, gpu_layers=0)
    found = fitted(asked, XEONS)
    assert found.fit.cpus == ()
    assert found.estimate.takes["node 0"] == pytest.approx(found.estimate.takes["node 1"], rel=0.01)


def test_model_that_is_to_be_spread_is() -> None:
    assert fitted(demand(SEVEN, numa="distribute", gpu_layers=0), XEONS).fit.cpus == ()


# Threads.


@pytest.mark.parametrize(("spare", "threads"), [(None, 7), (20, 7), (3, 3), (0, 1), (-4, 1)])
def test_threads_are_those_that_others_leave_and_at_least_one(spare: int | None, threads: int) -> None:
    room = Room({RAM: 28 * GIB}, threads=spare)
    assert fitted(demand(SEVEN, gpu_layers=0), room).fit.threads == threads


# What is not known.


def test_gpu_of_which_nobody_knows_the_memory_is_left_to_llama_server() -> None:
    found = fitted(demand(SEVEN), Room({RAM: 28 * GIB}))
    assert (found.fit.gpu_layers, found.fit.gpus) == (None, ())


def test_unread_header_is_judged_by_the_size_of_the_file() -> None:
    assert fitted(demand(None, weights_bytes=GIB, gpu_layers=0), Room({RAM: 2 * GIB})).fit.context_length == 4096
    assert "their header unread" in no(demand(None, weights_bytes=4 * GIB, gpu_layers=0), Room({RAM: 2 * GIB}))


def test_memory_of_which_nobody_knows_refuses_nothing() -> None:
    assert isinstance(find_fit(demand(SEVENTY), Room({})), Fitted)
