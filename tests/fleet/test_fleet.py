"""The fleet's promises with llama-servers in memory and time that is stepped: order, hand-over, faults, the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.engines.base import Launch, WeightsId
from app.errors import (
    DrainingError,
    ModelCoolingError,
    ModelFailedError,
    QueueFullError,
    UnavailableError,
    UpstreamError,
    WaitTimeoutError,
)
from app.fleet.facts import DraftModelUnused
from app.fleet.fleet import Fleet
from app.fleet.lease import Waiting
from app.fleet.progress import Stopwatch
from app.fleet.spec import ModelSpec
from app.fleet.states import State
from app.journal import Fact, Journal
from tests.fakes import DAY_S, FakeEngine, FakeRunning, Manner, model_spec, run_spec
from tests.fleet.virtual import virtual_time

RUN_DIR = Path("/tmp/airlab-test")
BOUND_S = 20_000.0
Scene = Callable[[Fleet], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(engine: FakeEngine) -> Play:
    """Plays a scene with a fleet of a, b and c on stepped time; when it ends, everything can still be stopped."""

    def play_scene(scene: Scene, *, max_loaded: int = 1, models: Mapping[str, ModelSpec] | None = None) -> None:
        async def whole() -> None:
            fleet = Fleet(engine, RUN_DIR, Journal())
            fleet.want(models or {key: model_spec(key) for key in "abc"}, max_loaded=max_loaded)
            async with asyncio.timeout(BOUND_S):
                await scene(fleet)
                assert await fleet.shut_down(drain_s=1)
            assert engine.alive() == []

        with virtual_time() as loop:
            loop.run_until_complete(whole())

    return play_scene


def in_a_day() -> float:
    return time.monotonic() + DAY_S


async def use(fleet: Fleet, key: str, seconds: float = 0.0, *, done: list[str] | None = None) -> None:
    async with fleet.lease(key, deadline_s=in_a_day()) as lease:
        assert lease.spec.key == key
        await asyncio.sleep(seconds)
    if done is not None:
        done.append(key)


def state_of(fleet: Fleet, key: str) -> State:
    return fleet.status()[key].state


async def turns_of_the_loop() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_model_is_loaded_once_for_many_who_wait(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=600)

    async def scene(fleet: Fleet) -> None:
        await asyncio.gather(*(use(fleet, "a") for _ in range(20)))
        assert engine.starts() == ["a"]

    play(scene)


def test_draft_model_that_llama_server_does_without_is_told_of(engine: FakeEngine) -> None:
    """It serves all the same, only slower than whoever wrote the manifest thinks, and says so in its log alone."""
    refused = "E srv load_model: failed to initialize speculative decoding context: draft model vocab type must match"
    engine.manners = {"a": Manner(last_lines=(refused,)), "b": Manner(), "c": Manner(last_lines=(refused,))}
    draft = WeightsId(Path("/models/draft.gguf"), 1, 1)
    drafted = {key: model_spec(key, run_spec(f"{key}.gguf", draft_model=draft)) for key in "ab"}
    noted: list[Fact] = []
    journal = Journal()
    journal.subscribe(noted.append)

    async def scene() -> None:
        fleet = Fleet(engine, RUN_DIR, journal)
        fleet.want(drafted | {"c": model_spec("c")}, max_loaded=3)
        async with asyncio.timeout(BOUND_S):
            for key in "abc":
                await use(fleet, key)
            assert await fleet.shut_down(drain_s=1)

    with virtual_time() as loop:
        loop.run_until_complete(scene())
    assert [fact.model for fact in noted if isinstance(fact, DraftModelUnused)] == ["a"]


def test_those_who_wait_for_one_slot_get_it_in_order_of_arrival(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        order: list[int] = []

        async def stand(number: int) -> None:
            async with fleet.lease("a", deadline_s=in_a_day()):
                order.append(number)
                await asyncio.sleep(1)

        await asyncio.gather(*(stand(number) for number in range(5)))
        assert order == [0, 1, 2, 3, 4]

    play(scene)


def test_newcomer_does_not_overtake_on_the_hot_path(play: Play) -> None:
    """A slot that comes free belongs to whoever waits, not to whoever happens to ask in that moment."""

    async def scene(fleet: Fleet) -> None:
        await use(fleet, "a")
        order: list[str] = []

        async def stand(name: str, seconds: float) -> None:
            async with fleet.lease("a", deadline_s=in_a_day()):
                order.append(name)
                await asyncio.sleep(seconds)

        first = asyncio.create_task(stand("first", 1))
        await turns_of_the_loop()
        second = asyncio.create_task(stand("second", 1))
        await first
        await stand("newcomer", 0)
        await second
        assert order == ["first", "second", "newcomer"]

    play(scene)


def test_requests_in_turn_for_two_models_are_all_served(play: Play, engine: FakeEngine) -> None:
    async def scene(fleet: Fleet) -> None:
        served: list[str] = []
        await asyncio.gather(*(use(fleet, key, 0.5, done=served) for key in "abababab"))
        assert sorted(served) == ["a"] * 4 + ["b"] * 4
        assert len(engine.starts()) <= 4, "a model is kept for those who want it while it is there"

    play(scene)


@pytest.mark.parametrize("load_s", [0.5, 30.0])
def test_requests_for_three_models_in_turn_are_grouped(play: Play, engine: FakeEngine, load_s: float) -> None:
    """A B C A B C runs as A A B B C C, also where a load takes longer than anybody's patience."""
    engine.default = Manner(load_s=load_s)

    async def scene(fleet: Fleet) -> None:
        served: list[str] = []
        await asyncio.gather(*(use(fleet, key, 0.5, done=served) for key in "abcabc"))
        assert "".join(served) == "aabbcc"
        assert len(engine.starts()) == 3

    play(scene)


def test_those_who_wait_are_told_for_how_long_once_that_was_measured(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=20.0)

    async def scene(fleet: Fleet) -> None:
        heard: list[Waiting] = []

        async def ask() -> None:
            async with fleet.lease("b", deadline_s=in_a_day(), waiting=heard.append):
                pass

        await use(fleet, "a", 4.0)
        await use(fleet, "b", 2.0)
        await fleet.unload("b")
        assert heard == []
        await ask()
        assert heard[0].eta_s == pytest.approx(20.0, abs=0.5)
        await fleet.unload("b")
        using = asyncio.create_task(use(fleet, "a", 4.0))
        await asyncio.sleep(0)
        heard.clear()
        await ask()
        # The load of a, its request, the time in which it is left alone, and the load of b.
        assert heard[0].eta_s == pytest.approx(46.0, abs=0.5)
        await using

    play(scene)


def test_queue_that_is_full_says_when_half_of_it_is_served(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        await use(fleet, "a", 1.0)
        asking = [asyncio.create_task(use(fleet, "a", 1.0)) for _ in range(fleet.limits.queue + 1)]
        await asyncio.sleep(0.1)
        with pytest.raises(QueueFullError) as refused:
            await use(fleet, "a")
        assert refused.value.retry_after_s == pytest.approx((fleet.limits.queue + 1) / 2)
        await asyncio.gather(*asking)

    play(scene)


def test_request_with_keep_alive_0_unloads_its_model_when_nobody_uses_it(play: Play, engine: FakeEngine) -> None:
    async def scene(fleet: Fleet) -> None:
        using = asyncio.create_task(use(fleet, "a", 3.0))
        await asyncio.sleep(1)
        async with fleet.lease("a", deadline_s=in_a_day(), keep_alive_s=0.0):
            pass
        assert fleet.status()["a"].busy == 1, "one who still uses it goes on"
        await using
        await asyncio.sleep(1)
        assert fleet.status()["a"].state is State.STOPPED
        await fleet.load("a", keep_alive_s=5.0)
        await asyncio.sleep(4)
        assert fleet.status()["a"].state is State.READY
        await asyncio.sleep(2)
        assert fleet.status()["a"].state is State.STOPPED

    play(scene, models={"a": model_spec("a", run_spec(slots=2))})


def test_model_loaded_beside_takes_nobodys_place(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        await fleet.load("a")
        await fleet.load("b", beside=True)
        with pytest.raises(UnavailableError, match="c cannot be loaded beside what is loaded"):
            await fleet.load("c", beside=True)
        assert [fleet.status()[key].state for key in "abc"] == [State.READY, State.READY, State.STOPPED]

    play(scene, max_loaded=2)


def test_busy_model_keeps_another_out_for_the_bound_of_fairness_only(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        async def always() -> None:
            while True:
                await use(fleet, "a", 0.5)

        busy = [asyncio.create_task(always()) for _ in range(3)]
        await asyncio.sleep(5)
        begun_s = time.monotonic()
        async with asyncio.timeout(60):
            await use(fleet, "b")
        # The two who waited when the patience ended are served, too.
        assert time.monotonic() - begun_s < fleet.limits.fairness_s + 2
        for task in busy:
            task.cancel()

    play(scene)


def test_full_queue_says_so(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=60)

    async def scene(fleet: Fleet) -> None:
        waiting = [asyncio.create_task(use(fleet, "a")) for _ in range(fleet.limits.queue)]
        await turns_of_the_loop()
        with pytest.raises(QueueFullError, match="32 requests"):
            await use(fleet, "a")
        await asyncio.gather(*waiting)

    play(scene)


def test_wait_ends_at_its_deadline(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=60)

    async def scene(fleet: Fleet) -> None:
        begun_s = time.monotonic()
        with pytest.raises(WaitTimeoutError, match=r"\(7 s\)"):
            async with fleet.lease("a", deadline_s=begun_s + 7):
                pass
        assert time.monotonic() == pytest.approx(begun_s + 7)

    play(scene)


def test_those_who_wait_are_told_what_for(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=1)

    async def scene(fleet: Fleet) -> None:
        heard: list[Waiting] = []
        first = asyncio.create_task(use(fleet, "a", 1))
        await turns_of_the_loop()
        async with fleet.lease("a", deadline_s=in_a_day(), waiting=heard.append):
            pass
        await first
        assert heard == [
            Waiting("a", State.STARTING, 1),
            Waiting("a", State.READY, 0),
        ]

    play(scene)


def test_caller_who_leaves_does_not_end_the_load(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=60)

    async def scene(fleet: Fleet) -> None:
        for asking in (fleet.load("a"), use(fleet, "a")):
            task = asyncio.create_task(asking)
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait({task})
        await use(fleet, "a")
        assert engine.starts() == ["a"]

    play(scene)


def test_slot_granted_to_one_who_leaves_in_that_moment_goes_to_the_next(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        async with fleet.lease("a", deadline_s=in_a_day()):
            leaving = asyncio.create_task(use(fleet, "a", DAY_S))
            staying = asyncio.create_task(use(fleet, "a"))
            await turns_of_the_loop()
        # The grant is made, and not yet seen by the one it was made to.
        leaving.cancel()
        await staying
        assert leaving.cancelled()
        assert fleet.status()["a"].busy == 0

    play(scene)


def test_request_during_a_stop_gets_a_fresh_server(play: Play, engine: FakeEngine) -> None:
    """Nobody is handed a server that is about to disappear."""
    engine.default = Manner(stop_s=3)

    async def scene(fleet: Fleet) -> None:
        await use(fleet, "a")
        unloading = asyncio.create_task(fleet.unload("a"))
        await asyncio.sleep(1)
        assert state_of(fleet, "a") is State.STOPPING
        await use(fleet, "a")
        await unloading
        assert engine.starts() == ["a", "a"]

    play(scene)


def test_unload_ends_for_its_caller_when_a_request_calls_the_model_back(play: Play, engine: FakeEngine) -> None:
    """It would else wait for a stop that nobody is going to make."""

    async def scene(fleet: Fleet) -> None:
        holding = asyncio.create_task(use(fleet, "a", 10))
        await asyncio.sleep(1)
        unloading = asyncio.create_task(fleet.unload("a"))
        await asyncio.sleep(1)
        assert state_of(fleet, "a") is State.DRAINING
        await use(fleet, "a")
        await unloading
        await holding
        assert engine.starts() == ["a"]

    play(scene)


def test_load_that_ends_in_the_moment_it_is_stopped_does_not_count_as_ready(play: Play, engine: FakeEngine) -> None:
    """Its readiness may be known in the turn of the loop in which it is told to stop: it must not be handed out."""
    engine.default = Manner(load_s=float("inf"))

    async def scene(fleet: Fleet) -> None:
        loading = asyncio.create_task(fleet.load("a"))
        await asyncio.sleep(1)
        answered = asyncio.Event()
        (instance,) = fleet._reconciler.instances.values()
        upstream: Any = instance.upstream

        async def healthy(*, timeout_s: float) -> bool:
            await answered.wait()
            return True

        upstream.healthy = healthy
        await asyncio.sleep(1)
        loading.cancel()
        # The watch is woken, and will say that it is ready, when the stop comes.
        answered.set()
        fleet.begin_unload("a")
        await turns_of_the_loop()
        assert engine.alive() == []
        assert state_of(fleet, "a") is State.STOPPED
        engine.default = Manner()
        await use(fleet, "a")
        assert len(engine.alive()) == 1

    play(scene)


def test_edited_model_serves_what_it_has_while_its_successor_starts(play: Play, engine: FakeEngine) -> None:
    async def scene(fleet: Fleet) -> None:
        holding = asyncio.create_task(use(fleet, "a", 30))
        await asyncio.sleep(1)
        fleet.want({"a": model_spec("a", run_spec("new.gguf"))}, max_loaded=2)
        async with fleet.lease("a", deadline_s=in_a_day()) as lease:
            assert lease.spec.run == run_spec("new.gguf")
            assert not holding.done()
        await holding
        await turns_of_the_loop()
        assert len(engine.alive("a")) == 1

    play(scene, max_loaded=2)


def test_edit_taken_back_before_the_drain_ends_keeps_the_engine(play: Play, engine: FakeEngine) -> None:
    async def scene(fleet: Fleet) -> None:
        holding = asyncio.create_task(use(fleet, "a", 30))
        await asyncio.sleep(1)
        fleet.want({"a": model_spec("a", run_spec("new.gguf"))}, max_loaded=1)
        await asyncio.sleep(1)
        fleet.want({"a": model_spec("a")}, max_loaded=1)
        await holding
        await use(fleet, "a")
        assert engine.starts() == ["a"]

    play(scene)


def test_crash_is_followed_by_a_pause_then_a_fresh_engine(play: Play, engine: FakeEngine) -> None:
    async def scene(fleet: Fleet) -> None:
        await use(fleet, "a")
        engine.alive("a")[0].exit(-11)
        await turns_of_the_loop()
        assert state_of(fleet, "a") is State.COOLING
        begun_s = time.monotonic()
        await use(fleet, "a")
        assert time.monotonic() - begun_s == pytest.approx(1, abs=0.1)
        assert engine.starts() == ["a", "a"]

    play(scene)


def test_crash_with_a_request_open_tells_why_and_gives_the_lease_back(play: Play, engine: FakeEngine) -> None:
    async def scene(fleet: Fleet) -> None:
        async with fleet.lease("a", deadline_s=in_a_day()) as lease:
            upstream: Any = lease.upstream
            engine.alive("a")[0].manner.last_lines = ("CUDA error: an illegal memory access",)
            engine.alive("a")[0].exit(-6)
            assert await lease.engine_ended(within_s=1)
            await turns_of_the_loop()
            assert isinstance(upstream.closed_because, UpstreamError)
            assert "killed by signal 6" in upstream.closed_because.message
            assert "illegal memory access" in upstream.closed_because.message
        await use(fleet, "a")

    play(scene)


def test_fault_097_model_that_keeps_crashing_is_given_longer_pauses_and_then_up(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=5, exit_code=-11, last_lines=("segfault",))

    async def scene(fleet: Fleet) -> None:
        retries_s: list[float] = []
        while state_of(fleet, "a") is not State.FAILED:
            with pytest.raises((ModelCoolingError, ModelFailedError)) as refused:
                await use(fleet, "a")
            if isinstance(refused.value, UnavailableError):
                retries_s.append(round(refused.value.retry_after_s))
                await asyncio.sleep(refused.value.retry_after_s)
        assert len(engine.starts()) == 6
        assert retries_s == [4, 8, 16]
        assert "segfault" in (fleet.status()["a"].message or "")

        await asyncio.sleep(200)
        with pytest.raises(ModelFailedError):
            await use(fleet, "a")
        await asyncio.sleep(100)
        engine.default = Manner()
        await use(fleet, "a")

    play(scene)


def test_verdict_of_the_engine_is_final_until_an_edit_or_an_admin(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(exit_code=1, last_lines=("error: invalid argument: --wrong",))

    async def scene(fleet: Fleet) -> None:
        for _ in range(3):
            with pytest.raises(ModelFailedError, match="--wrong"):
                await use(fleet, "a")
            await asyncio.sleep(1000)
        assert engine.starts() == ["a"]
        with pytest.raises(ModelFailedError):
            await fleet.load("a")
        assert engine.starts() == ["a", "a"], "an admin may try at once"
        engine.default = Manner()
        fleet.want({"a": model_spec("a", run_spec("mended.gguf"))}, max_loaded=1)
        await use(fleet, "a")

    play(scene)


@pytest.mark.parametrize("removed_between", [True, False])
def test_edit_that_mends_a_failed_model_is_tried_at_once(
    play: Play, engine: FakeEngine, *, removed_between: bool
) -> None:
    engine.default = Manner(refused="no such binary")

    async def scene(fleet: Fleet) -> None:
        with pytest.raises(ModelFailedError, match="no such binary"):
            await use(fleet, "a")
        if removed_between:
            fleet.want({"b": model_spec("b")}, max_loaded=1)
        engine.default = Manner()
        fleet.want({"a": model_spec("a", run_spec("mended.gguf"))}, max_loaded=1)
        await use(fleet, "a")

    play(scene)


def test_fault_of_an_engine_that_an_edit_replaced_is_not_held_against_its_successor(
    play: Play, engine: FakeEngine
) -> None:
    """The edit that mends a bad flag may come while the engine that failed over it is still being cleared away."""
    engine.manners["a"] = Manner(exit_code=1, stop_s=3)

    async def scene(fleet: Fleet) -> None:
        asking = asyncio.create_task(use(fleet, "a"))
        await asyncio.sleep(1)
        assert state_of(fleet, "a") is State.STOPPING
        engine.manners.clear()
        fleet.want({"a": model_spec("a", run_spec("mended.gguf"))}, max_loaded=1)
        await asking

    play(scene)


def test_fault_098_silent_load_is_given_up_after_two_minutes(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=float("inf"), moves=False)

    async def scene(fleet: Fleet) -> None:
        asking = asyncio.create_task(use(fleet, "a"))
        await asyncio.sleep(119)
        assert state_of(fleet, "a") is State.STARTING
        engine.default = Manner()
        await asking
        assert engine.starts() == ["a", "a"]

    play(scene)


def test_fault_098_second_silent_load_in_a_row_is_the_last(play: Play, engine: FakeEngine) -> None:
    """Each holds the place for two minutes: five of them, as of crashes, would never be within ten."""
    engine.manners["a"] = Manner(load_s=float("inf"), moves=False)

    async def scene(fleet: Fleet) -> None:
        with pytest.raises(ModelFailedError, match=r"stalled 2 times in a row .* nothing moved for 120 s"):
            await use(fleet, "a")
        assert (engine.starts(), state_of(fleet, "a")) == (["a", "a"], State.FAILED)
        engine.manners.clear()
        await asyncio.sleep(fleet.limits.failed_rest_s)
        await use(fleet, "a")

    play(scene)


def test_fault_098_others_have_their_turn_between_loads_that_stall(play: Play, engine: FakeEngine) -> None:
    """They came while the first one held the place, and wait for no second one."""
    engine.manners["a"] = Manner(load_s=float("inf"), moves=False)
    done: list[str] = []

    async def scene(fleet: Fleet) -> None:
        stalled = asyncio.create_task(use(fleet, "a"))
        await asyncio.sleep(1)
        others = [asyncio.create_task(use(fleet, key, 30, done=done)) for key in "bccb"]
        with pytest.raises(ModelFailedError):
            await stalled
        await asyncio.gather(*others)
        assert done == ["b", "b", "c", "c"]
        assert engine.starts() == ["a", "b", "c", "a"]

    play(scene)


def test_fault_098_load_that_moves_and_never_ends_is_not_tried_again_at_once(play: Play, engine: FakeEngine) -> None:
    engine.manners["a"] = Manner(load_s=float("inf"))

    async def scene(fleet: Fleet) -> None:
        with pytest.raises(ModelFailedError, match="not ready after 30 minutes"):
            await use(fleet, "a")
        assert engine.starts() == ["a"]

    play(scene)


def test_fault_098_load_that_moves_may_take_longer_than_the_stall_limit(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(load_s=600)

    async def scene(fleet: Fleet) -> None:
        await use(fleet, "a")
        assert engine.starts() == ["a"]

    play(scene)


def test_fault_099_busy_engine_that_sends_nothing_is_replaced(play: Play, engine: FakeEngine) -> None:
    engine.default = Manner(moves=False)

    async def scene(fleet: Fleet) -> None:
        async with fleet.lease("a", deadline_s=in_a_day()) as lease:
            upstream: Any = lease.upstream
            upstream.progress.begin(Stopwatch())
            assert await lease.engine_ended(within_s=fleet.limits.hung_s + 5)
            await turns_of_the_loop()
            assert "sent nothing" in upstream.closed_because.message
        await use(fleet, "a")
        assert engine.starts() == ["a", "a"]

    play(scene)


def test_client_that_is_slow_to_read_is_no_hung_engine(play: Play, engine: FakeEngine) -> None:
    """Whoever stops reading a long answer would else have the engine of everybody else killed."""
    engine.default = Manner(moves=False)

    async def scene(fleet: Fleet) -> None:
        await use(fleet, "a", seconds=3 * fleet.limits.silent_s)
        await use(fleet, "a")
        assert engine.starts() == ["a"]

    play(scene)


def test_idle_model_leaves_in_time_though_another_is_looked_at_later(play: Play, engine: FakeEngine) -> None:
    models = {"a": model_spec("a", idle_timeout=60.0), "b": model_spec("b", idle_timeout=3600.0)}

    async def scene(fleet: Fleet) -> None:
        holding = asyncio.create_task(use(fleet, "a", 10))
        await asyncio.sleep(1)
        await use(fleet, "b")
        await holding
        await asyncio.sleep(61)
        assert engine.alive("a") == []
        assert len(engine.alive("b")) == 1
        await asyncio.sleep(3600)
        assert engine.alive("b") == []

    play(scene, models=models, max_loaded=2)


def test_preloaded_models_come_up_by_themselves_and_again_after_a_crash(play: Play, engine: FakeEngine) -> None:
    models = {"a": model_spec("a", preload=True), "b": model_spec("b", preload=True), "c": model_spec("c")}

    async def scene(fleet: Fleet) -> None:
        await asyncio.sleep(1)
        assert engine.starts() == ["a", "b"]
        engine.alive("a")[0].exit(-9)
        await asyncio.sleep(2)
        assert len(engine.alive("a")) == 1

    play(scene, models=models, max_loaded=2)


def test_engine_that_survives_is_reported_and_ended_when_it_can_be(play: Play, engine: FakeEngine) -> None:
    engine.manners["a"] = Manner(survives_stops=3)

    async def scene(fleet: Fleet) -> None:
        await use(fleet, "a")
        unloading = asyncio.create_task(fleet.unload("a"))
        await asyncio.sleep(2)
        assert state_of(fleet, "a") is State.STUCK
        with pytest.raises(UnavailableError, match="cannot be stopped"):
            await use(fleet, "b")
        # Who asked for it is told and not kept: it may take for ever.
        with pytest.raises(UnavailableError, match="pid"):
            await unloading
        await asyncio.sleep(60)
        assert state_of(fleet, "a") is State.STOPPED
        await use(fleet, "b")

    play(scene)


def test_shutdown_lets_open_work_end_and_takes_no_more(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        holding = asyncio.create_task(use(fleet, "a", 10))
        waiting = asyncio.create_task(use(fleet, "b"))
        await asyncio.sleep(1)
        stopping = asyncio.create_task(fleet.shut_down(drain_s=20))
        await asyncio.sleep(1)
        with pytest.raises(DrainingError):
            await waiting
        with pytest.raises(DrainingError):
            await use(fleet, "a")
        await holding
        assert await stopping

    play(scene)


def test_shutdown_breaks_off_what_takes_too_long(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        async with fleet.lease("a", deadline_s=in_a_day()) as lease:
            upstream: Any = lease.upstream
            assert await fleet.shut_down(drain_s=5)
            assert isinstance(upstream.closed_because, DrainingError)

    play(scene)


def test_socket_path_too_long_is_a_failure_with_a_way_out(engine: FakeEngine) -> None:
    async def scene() -> None:
        fleet = Fleet(engine, RUN_DIR / ("long" * 30), Journal())
        fleet.want({"a": model_spec("a")}, max_loaded=1)
        with pytest.raises(ModelFailedError, match="TMPDIR"):
            await fleet.load("a")
        assert engine.starts() == []

    with virtual_time() as loop:
        loop.run_until_complete(scene())


def test_load_that_failed_is_not_tried_for_ever(play: Play, engine: FakeEngine) -> None:
    """It would take the only place again and again, from models that people use."""
    engine.manners["a"] = Manner(exit_code=-9)

    async def scene(fleet: Fleet) -> None:
        with pytest.raises(ModelCoolingError):
            await fleet.load("a")
        started = len(engine.started)
        await asyncio.sleep(DAY_S / 24)
        assert len(engine.started) == started

    play(scene)


def test_newer_switch_ends_the_older_ones_load(play: Play, engine: FakeEngine) -> None:
    """The older caller is told; the model is not loaded once more before the newer one may."""
    engine.manners["a"] = Manner(load_s=60)

    async def scene(fleet: Fleet) -> None:
        older = asyncio.create_task(fleet.load("a"))
        await asyncio.sleep(1)
        fleet.begin_unload("a")
        await fleet.load("b")
        with pytest.raises(UnavailableError, match="unloaded before it was ready"):
            await older
        assert [running.launch.key for running in engine.started] == ["a", "b"]

    play(scene)


def test_engine_that_fails_in_an_unforeseen_way_gives_its_place_back(play: Play, engine: FakeEngine) -> None:
    """Silent, the failure would leave the model starting, and its place taken, until the service stops."""
    start = engine.start

    async def start_or_fail(launch: Launch) -> FakeRunning:
        if launch.key == "a":
            raise PermissionError(13, "not foreseen")
        return await start(launch)

    engine.start = start_or_fail  # type: ignore[method-assign] # a fault that no manner has

    async def scene(fleet: Fleet) -> None:
        with pytest.raises(ModelCoolingError, match="not foreseen"):
            await use(fleet, "a")
        await use(fleet, "b")

    play(scene)
