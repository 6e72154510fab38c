"""What one more model may take: free memory less promises that were not taken up yet, within the budget."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from app.fleet.memory import Booking, Budget, Reading, Share, room_for, shares_of

ALL = Budget()


def reading(**free: int) -> Reading:
    return Reading(0.0, {name.replace("_", " "): size for name, size in free.items()})


def test_what_others_were_promised_and_do_not_hold_yet_is_not_free() -> None:
    room = room_for(reading(RAM=100), ALL, [Booking({"RAM": 60}, {"RAM": 50})])
    assert room.free == {"RAM": 90}


def test_what_somebody_holds_beyond_its_promise_is_gone_all_the_same() -> None:
    assert room_for(reading(RAM=100), ALL, [Booking({"RAM": 60}, {"RAM": 70})]).free == {"RAM": 100}


def test_what_leaves_gives_back_what_it_holds_and_its_promise() -> None:
    assert room_for(reading(RAM=100), ALL, [], [Booking({"RAM": 60}, {"RAM": 50})]).free == {"RAM": 150}


def test_budget_counts_promises_and_never_more_than_is_free() -> None:
    staying = [Booking({"RAM": 60}, {"RAM": 60})]
    assert room_for(reading(RAM=100), Budget(ram=90), staying).free == {"RAM": 30}
    assert room_for(reading(RAM=20), Budget(ram=90), staying).free == {"RAM": 20}


def test_each_gpu_has_the_budget_of_its_own_and_nodes_share_that_of_the_host() -> None:
    free = reading(node_0=100, node_1=100, GPU_0=100, GPU_1=100)
    room = room_for(free, Budget(vram=70, ram=80), [])
    assert room.free == {"node 0": 40, "node 1": 40, "GPU 0": 70, "GPU 1": 70}
    assert room.gpus == (0, 1)


def test_of_a_card_whose_size_alone_is_known_all_that_is_booked_is_off() -> None:
    """Also what an engine holds already: nobody took that off."""
    told = replace(reading(GPU_0=100), sizes=frozenset({"GPU 0"}))
    loaded, leaving = Booking({"GPU 0": 60}, {"GPU 0": 55}), Booking({"GPU 0": 30}, {"GPU 0": 30})
    assert room_for(told, ALL, [loaded, leaving]).free == {"GPU 0": 10}
    assert room_for(told, ALL, [loaded], [leaving]).free == {"GPU 0": 40}
    assert room_for(told, ALL, [], [loaded, leaving]).free == {"GPU 0": 100}


def test_share_is_what_models_were_promised_of_what_they_could_have_together() -> None:
    free, bookings = reading(RAM=100, GPU_0=50), [Booking({"RAM": 60}, {"RAM": 40}), Booking({"GPU 0": 20}, {})]
    assert shares_of(free, ALL, bookings) == [Share("GPU 0", 50, 20), Share("RAM", 140, 60)]
    assert shares_of(free, Budget(ram=90), bookings)[1] == Share("RAM", 90, 60)


BOOKINGS = st.lists(
    st.builds(lambda takes, held: Booking({"RAM": takes}, {"RAM": held}), st.integers(0, 500), st.integers(0, 500)),
    max_size=5,
)


@given(st.integers(0, 1000), st.none() | st.integers(1, 1000), BOOKINGS, BOOKINGS)
def test_room_is_never_less_than_nothing_and_never_beyond_the_budget(
    free: int, ram: int | None, staying: list[Booking], leaving: list[Booking]
) -> None:
    room = room_for(reading(RAM=free), Budget(ram=ram), staying, leaving).free["RAM"]
    assert 0 <= room <= free + sum(booking.held["RAM"] for booking in leaving)
    if ram is not None:
        assert room + sum(booking.takes["RAM"] for booking in staying) <= max(
            ram, sum(booking.takes["RAM"] for booking in staying)
        )
