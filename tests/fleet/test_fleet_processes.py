"""The fleet with real processes and real sockets: what only they show. Their server is the scripted llama-server."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest

from app.engines.base import WeightsId
from app.engines.native import NativeEngine
from app.errors import (
    AirLabError,
    DrainingError,
    ModelFailedError,
    UpstreamError,
    UpstreamStalledError,
    WaitTimeoutError,
)
from app.fleet.facts import ModelBroke, ModelLeaving, ModelReady, ModelStopped
from app.fleet.fleet import Fleet
from app.fleet.spec import ModelSpec
from app.fleet.states import Limits, State, Why
from app.fleet.upstream import Upstream
from app.journal import Fact, Journal
from tests.fakes import model_spec, run_spec
from tests.support.fake import fake_llama_server_command, starts_of, write_fault

BOUND_S = 30.0
SHORT = Limits(stop_grace_s=0.3, cooling_s=(0.01,) * 5, quiet_s=0.0, stuck_look_s=0.1)
"""Whoever does not hang has time: on a busy machine a good engine, too, does nothing for a while."""
STALLING = replace(SHORT, load_stall_s=1.5)
HASTY = replace(SHORT, hung_s=0.4)
PATIENT = replace(SHORT, hung_s=1.0)
"""More patient than some clients."""
CHAT = "/v1/chat/completions"
HELLO = msgspec.json.encode({"messages": [{"role": "user", "content": "Hello"}], "stream": True})
Made = Callable[..., "Home"]


class Home:
    """A fleet on the scripted llama-server, and what its journal says."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.facts: list[Fact] = []
        self._noted = asyncio.Event()
        journal = Journal()
        journal.subscribe(self._note)
        self.run_dir = folder / "run"
        self.engine = NativeEngine(self.run_dir, fake_llama_server_command(folder))
        self.fleet = Fleet(self.engine, self.run_dir, journal, limits)

    def want(self, *keys: str, slots: int = 1, max_loaded: int = 1) -> None:
        self.fleet.want({key: self._spec(key, slots) for key in keys}, max_loaded=max_loaded)

    def be_patient(self) -> None:
        """What is started from now on has time: what hung or stalled is found by now, and its successor is good."""
        self.fleet._reconciler._limits = SHORT

    def model(self, key: str) -> Path:
        """Its file; the script lies beside it."""
        file = self.folder / f"{key}.gguf"
        file.write_bytes(b"GGUF")
        return file

    async def noted(self, kind: type[Fact], *, after: int = 0) -> Fact:
        """The first fact of this kind, from this place in the journal on."""
        async with asyncio.timeout(BOUND_S):
            while True:
                for fact in self.facts[after:]:
                    if isinstance(fact, kind):
                        return fact
                self._noted.clear()
                await self._noted.wait()

    def _note(self, fact: Fact) -> None:
        self.facts.append(fact)
        self._noted.set()

    def _spec(self, key: str, slots: int) -> ModelSpec:
        return model_spec(key, run_spec(slots=slots, weights=WeightsId(self.model(key), 4, 1)))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's may have 107 bytes, and pytest's own are long."""
    with tempfile.TemporaryDirectory(prefix="al-") as name:
        yield Path(name)


@pytest.fixture
async def made(folder: Path) -> AsyncIterator[Made]:
    """Makes a home of the fleet; when the test ends, neither process nor socket of it is left."""
    homes: list[Home] = []
    # Engines are children of ours; further down are those of services that other tests share.
    before = {child.pid for child in psutil.Process().children()}

    def make(limits: Limits = SHORT) -> Home:
        homes.append(Home(folder, limits))
        return homes[-1]

    yield make
    for home in homes:
        async with asyncio.timeout(BOUND_S):
            assert await home.fleet.shut_down(drain_s=0.1)
        assert list(home.run_dir.glob("*")) == []
    left = [child for child in psutil.Process().children() if child.pid not in before]
    assert [child for child in left if child.status() != psutil.STATUS_ZOMBIE] == []


def soon() -> float:
    return time.monotonic() + BOUND_S


async def say_hello(home: Home, key: str = "a") -> bytes:
    """The whole answer to one request."""
    async with (
        home.fleet.lease(key, deadline_s=soon()) as lease,
        await lease.upstream.send(CHAT, HELLO) as answer,
    ):
        assert answer.status == 200
        return await answer.read()


def pid_of(home: Home, key: str = "a") -> int:
    pid = home.fleet.status()[key].pid
    assert pid is not None
    return pid


async def test_request_loads_the_model_and_is_answered(made: Made) -> None:
    home = made()
    home.want("a")
    assert b"[DONE]" in await say_hello(home)
    assert home.fleet.status()["a"].state is State.READY
    assert b"[DONE]" in await say_hello(home)
    assert starts_of(home.model("a")) <= 1


async def test_two_models_take_turns_in_one_place(made: Made) -> None:
    home = made()
    home.want("a", "b")
    answers = await asyncio.gather(*(say_hello(home, key) for key in "abab"))
    assert all(b"[DONE]" in answer for answer in answers)
    assert len(list(home.run_dir.glob("*.sock"))) == 1


async def test_fault_098_load_that_moves_outlives_the_stall_limit(made: Made, folder: Path) -> None:
    """Waits for a load measure progress, not time."""
    home = made(STALLING)
    gate = folder / "loaded"
    write_fault(home.model("a"), load_until_file=str(gate), progress=True)
    home.want("a")
    asking = asyncio.create_task(say_hello(home))
    done, _ = await asyncio.wait({asking}, timeout=2 * STALLING.load_stall_s)
    assert not done
    assert home.fleet.status()["a"].state is State.STARTING
    gate.touch()
    assert b"[DONE]" in await asking
    assert starts_of(home.model("a")) == 1


async def test_fault_098_silent_load_is_given_up_and_tried_again(made: Made) -> None:
    home = made(STALLING)
    write_fault(home.model("a"), starts=[{"load_forever": True}, {}])
    home.want("a")
    asking = asyncio.create_task(say_hello(home))
    broke = await home.noted(ModelBroke)
    home.be_patient()
    assert isinstance(broke, ModelBroke)
    assert "nothing moved" in broke.message
    assert b"[DONE]" in await asking


async def test_fault_096_exit_at_the_start_is_a_failure_with_the_last_lines_and_no_second_try(made: Made) -> None:
    home = made()
    write_fault(home.model("a"), exit_code=1, exit_message="error: invalid argument: --wrong")
    home.want("a")
    for _ in range(2):
        with pytest.raises(ModelFailedError, match=r"exit code 1 while it loaded.*--wrong"):
            await say_hello(home)
    assert starts_of(home.model("a")) == 1
    status = home.fleet.status()["a"]
    assert status.state is State.FAILED
    assert "--wrong" in (status.message or "")


async def test_program_that_cannot_be_run_is_a_failure(made: Made) -> None:
    home = made()
    home.engine._llama_server_path = home.folder / "missing"
    home.want("a")
    with pytest.raises(ModelFailedError, match="LLAMA_SERVER_PATH"):
        await say_hello(home)


async def test_crash_between_requests_is_followed_by_a_fresh_engine(made: Made) -> None:
    home = made()
    home.want("a")
    await say_hello(home)
    first = pid_of(home)
    os.kill(first, signal.SIGKILL)
    broke = await home.noted(ModelBroke)
    assert isinstance(broke, ModelBroke)
    assert "killed by signal 9 while it served" in broke.message
    assert b"[DONE]" in await say_hello(home)
    assert pid_of(home) != first


async def test_fault_097_engine_that_dies_soon_after_each_start_is_given_up_after_five_restarts(made: Made) -> None:
    """By itself: nobody asks, and a model that is to stay loaded must not be started for ever."""
    home = made()
    write_fault(home.model("a"))
    home.want("a")
    await home.fleet.load("a")
    seen = 0
    for _ in range(6):
        ready = await home.noted(ModelReady, after=seen)
        assert isinstance(ready, ModelReady)
        assert ready.pid is not None
        os.kill(ready.pid, signal.SIGKILL)
        seen = home.facts.index(await home.noted(ModelBroke, after=seen)) + 1
        await home.noted(ModelStopped, after=seen)
    status = home.fleet.status()["a"]
    assert status.state is State.FAILED
    assert "killed by signal 9 while it served" in (status.message or "")
    with pytest.raises(ModelFailedError, match="killed by signal 9"):
        await say_hello(home)
    assert starts_of(home.model("a")) == 6


async def test_fault_100_crash_in_a_stream_breaks_it_off_for_its_reader(made: Made) -> None:
    """Half an answer must not pass for a whole one."""
    home = made()
    write_fault(home.model("a"), starts=[{"die_after_tokens": 3}, {}])
    home.want("a")
    with pytest.raises(UpstreamError):
        await say_hello(home)
    await home.noted(ModelBroke)
    assert b"[DONE]" in await say_hello(home)


async def test_fault_099_hung_engine_is_replaced_though_its_health_is_green(made: Made) -> None:
    home = made(HASTY)
    write_fault(home.model("a"), starts=[{"health_ok_but_hung": True, "ignore_sigterm": True}, {}])
    home.want("a")
    with pytest.raises(UpstreamStalledError, match="sent nothing"):
        await say_hello(home)
    home.be_patient()
    assert b"[DONE]" in await say_hello(home)


async def test_fault_099_stream_that_stalls_is_broken_off(made: Made) -> None:
    home = made(HASTY)
    write_fault(home.model("a"), starts=[{"stall_after_tokens": 2}, {}])
    home.want("a")
    with pytest.raises(UpstreamStalledError, match="sent nothing"):
        await say_hello(home)


async def ask_anew(home: Home, patience_s: float) -> None:
    """A client with little patience, which asks again at once."""
    while True:
        with suppress(AirLabError, TimeoutError):
            async with asyncio.timeout(patience_s):
                await say_hello(home)


@asynccontextmanager
async def impatient(home: Home, *patience_s: float) -> AsyncIterator[None]:
    clients = [asyncio.create_task(ask_anew(home, each)) for each in patience_s]
    try:
        yield
    finally:
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)


async def test_fault_099_hung_engine_is_replaced_though_every_client_gives_up_and_asks_again(made: Made) -> None:
    """Patience that ends before ours is no sign of life."""
    home = made(PATIENT)
    write_fault(home.model("a"), starts=[{"health_ok_but_hung": True}, {}])
    home.want("a")
    async with impatient(home, 0.3, 0.5):
        broke = await home.noted(ModelBroke)
        home.be_patient()
    assert isinstance(broke, ModelBroke)
    assert "sent nothing" in broke.message
    assert b"[DONE]" in await say_hello(home)


async def test_fault_099_stream_that_is_only_kept_alive_is_broken_off(made: Made) -> None:
    """llama-server sends pings from a thread of its own: whatever hangs, they come."""
    home = made(HASTY)
    write_fault(home.model("a"), starts=[{"stall_after_tokens": 2, "ping_s": 0.05}, {}])
    home.want("a")
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(UpstreamStalledError, match="sent nothing"):
            await say_hello(home)


async def test_fault_099_stalled_stream_is_broken_off_though_others_are_sent_something(made: Made) -> None:
    """One slot that hangs is an engine that hangs, for the one who waits for it."""
    home = made(PATIENT)
    write_fault(home.model("a"), starts=[{"stall_after_tokens": 2}, {}])
    home.want("a", slots=2)
    patient = asyncio.create_task(say_hello(home))
    async with impatient(home, 0.3), asyncio.timeout(BOUND_S):
        with pytest.raises(UpstreamStalledError, match="sent nothing"):
            await patient


async def test_reader_that_stops_reading_is_no_hung_engine(made: Made) -> None:
    """One slow client must not cost everybody else their engine."""
    home = made(PATIENT)
    write_fault(home.model("a"), tokens=3, token_gate_file=str(home.folder / "gate"))
    home.want("a")
    async with home.fleet.lease("a", deadline_s=soon()) as lease, await lease.upstream.send(CHAT, HELLO) as answer:
        assert lease.upstream.progress.waiting == 0
        async with aclosing(answer.chunks()) as chunks:  # type: ignore[type-var] # it is an async generator
            await anext(chunks)
            assert lease.upstream.progress.waiting == 0
            assert not await lease.engine_ended(within_s=2 * PATIENT.hung_s)
            (home.folder / "gate").touch()
            assert [chunk async for chunk in chunks]
        assert lease.upstream.progress.waiting == 0


async def test_engine_deaf_to_sigterm_is_killed(made: Made) -> None:
    home = made()
    write_fault(home.model("a"), ignore_sigterm=True)
    home.want("a")
    await say_hello(home)
    pid = pid_of(home)
    await home.fleet.unload("a")
    assert not psutil.pid_exists(pid)
    assert home.fleet.status()["a"].state is State.STOPPED


async def test_grandchild_in_a_session_of_its_own_does_not_hang_the_stop(made: Made) -> None:
    home = made()
    write_fault(home.model("a"), fork_setsid_grandchild=True)
    home.want("a")
    await say_hello(home)
    async with asyncio.timeout(BOUND_S):
        await home.fleet.unload("a")


async def test_stop_finishes_though_its_caller_is_cancelled(made: Made) -> None:
    home = made()
    write_fault(home.model("a"), ignore_sigterm=True)
    home.want("a")
    await say_hello(home)
    pid = pid_of(home)
    unloading = asyncio.create_task(home.fleet.unload("a"))
    await asyncio.sleep(0)
    unloading.cancel()
    await asyncio.wait({unloading})
    async with asyncio.timeout(BOUND_S):
        await home.fleet.unload("a")
    assert not psutil.pid_exists(pid)


async def test_caller_who_leaves_while_it_loads_does_not_end_the_load(made: Made) -> None:
    home = made()
    gate = home.folder / "loaded"
    write_fault(home.model("a"), load_until_file=str(gate), progress=True)
    home.want("a")
    with pytest.raises(WaitTimeoutError):
        async with home.fleet.lease("a", deadline_s=time.monotonic() + 0.2):
            pass
    gate.touch()
    assert b"[DONE]" in await say_hello(home)
    assert starts_of(home.model("a")) == 1


async def test_fault_113_shutdown_breaks_off_open_streams_with_its_reason(made: Made) -> None:
    """llama-server would ignore SIGTERM for as long as they are open."""
    home = made(Limits())
    write_fault(home.model("a"), stall_after_tokens=1)
    home.want("a", slots=3)

    async def read() -> AirLabError:
        with pytest.raises(AirLabError) as broken:
            await say_hello(home)
        return broken.value

    reading = [asyncio.create_task(read()) for _ in range(3)]
    async with asyncio.timeout(BOUND_S):
        while home.fleet.status()["a"].busy < 3:  # noqa: ASYNC110 # nothing tells of a lease
            await asyncio.sleep(0.01)
        assert await home.fleet.shut_down(drain_s=0.1)
        errors = await asyncio.gather(*reading)
    assert [type(error) for error in errors] == [DrainingError] * 3


async def test_lease_of_an_engine_that_is_gone_says_why(made: Made) -> None:
    """A chat turn holds its lease over several requests; the engine may go between two of them."""
    home = made()
    home.want("a")
    async with home.fleet.lease("a", deadline_s=soon()) as lease:
        os.kill(pid_of(home), signal.SIGKILL)
        await home.noted(ModelBroke)
        await home.fleet.unload("a")
        with pytest.raises(UpstreamError, match="killed by signal 9"):
            await lease.upstream.send(CHAT, HELLO)


async def test_upstream_asks_once_more_where_a_pooled_connection_was_closed(made: Made) -> None:
    """llama-server closes idle connections after a few seconds; that is nobody's failure."""
    home = made(Limits())
    keep_alive_s = 0.5  # no less: the server closes a new connection as well, when nothing comes for so long
    write_fault(home.model("a"), keep_alive_s=keep_alive_s)
    home.want("a")
    for _ in range(3):
        async with home.fleet.lease("a", deadline_s=soon()) as lease:
            await lease.upstream.ask("/props", of=dict)
        await asyncio.sleep(keep_alive_s)
        assert b"[DONE]" in await say_hello(home)


async def test_upstream_says_that_nobody_listens(folder: Path) -> None:
    upstream = Upstream(folder / "nobody.sock")
    try:
        assert not await upstream.healthy(timeout_s=1)
        with pytest.raises(UpstreamError, match="broke off"):
            await upstream.send(CHAT, HELLO)
        assert upstream.progress.waiting == 0
    finally:
        await upstream.close(UpstreamError("over"))


NO_MEMORY = {
    "exit_code": 1,
    "exit_at": "load",
    "exit_message": "alloc_buffer: failed to allocate buffer of size 97517568",
}


async def test_fault_107_start_without_memory_is_tried_once_more_when_an_idle_model_has_gone(made: Made) -> None:
    home = made()
    write_fault(home.model("a"), starts=[NO_MEMORY, {}])
    home.want("a", "b", "c", max_loaded=3)
    await say_hello(home, "b")
    await say_hello(home, "c")
    assert b"[DONE]" in await say_hello(home, "a")
    left = [fact for fact in home.facts if isinstance(fact, ModelLeaving)]
    assert [(fact.model, fact.why) for fact in left] == [("b", Why.CRAMPED)]
    assert home.fleet.status()["c"].state is State.READY


async def test_fault_107_start_without_memory_fails_after_the_second_try_and_says_why(made: Made) -> None:
    home = made()
    write_fault(home.model("a"), **NO_MEMORY)
    home.want("a")
    with pytest.raises(ModelFailedError, match=r"2 times.*ran out of the host's memory.*failed to allocate buffer"):
        await say_hello(home)
    assert starts_of(home.model("a")) == 2
