"""An engine that hangs is found whatever its clients do, and one that works is left alone, whatever they do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from app.fleet.progress import Progress, Stopwatch, Watch
from app.fleet.states import Limits
from tests.fleet.virtual import virtual_time

LIMITS = Limits(hung_s=60.0, silent_s=1800.0)
TICK_S = 5.0


@dataclass(frozen=True)
class Client:
    """Asks, waits for so long at most, leaves, and asks anew after a pause."""

    patience_s: float
    pause_s: float


class Host:
    """One engine under watch, its clients, and what an honest onlooker would say of it."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.works = 0.0
        """The share of a processor that it uses while it is waited for."""
        self.idle_cpu_s = 0.0
        self._waiting, self._waited_s = 0, 0.0
        self._since_s = 0.0

    @contextmanager
    def request(self) -> Iterator[Stopwatch]:
        waited = Stopwatch()
        self.progress.begin(waited)
        self._waiting += 1
        if self._waiting == 1:
            self._since_s = time.monotonic()
        try:
            yield waited
        finally:
            self.progress.end(waited)
            self._waiting -= 1
            if not self._waiting:
                self._waited_s += time.monotonic() - self._since_s

    @property
    def waited_s(self) -> float:
        """While at least one waited, by a count of its own."""
        return self._waited_s + (time.monotonic() - self._since_s if self._waiting else 0.0)

    @property
    def cpu_s(self) -> float:
        return self.works * self.waited_s + self.idle_cpu_s

    async def until_hung(self) -> float:
        watch = Watch(self.progress, LIMITS, cpu_s=self.cpu_s)
        while True:
            await asyncio.sleep(TICK_S)
            if (hung_for_s := watch.hung_for_s(cpu_s=self.cpu_s)) is not None:
                return hung_for_s


Doing = Callable[[Host], Awaitable[None]]


def watched(*doings: Doing, for_s: float) -> tuple[Host, float | None]:
    """The host, and for how long it counted as silent when it was found to hang; None where it was not."""

    async def scene(host: Host) -> float | None:
        tasks = [asyncio.ensure_future(doing(host)) for doing in doings]
        try:
            async with asyncio.timeout(for_s):
                return await host.until_hung()
        except TimeoutError:
            return None
        finally:
            for task in tasks:
                task.cancel()
            assert not [
                each for each in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(each, Exception)
            ]

    with virtual_time() as loop:
        host = Host()
        return host, loop.run_until_complete(scene(host))


async def ask_in_vain(host: Host, client: Client, begins_s: float = 0.0) -> None:
    await asyncio.sleep(begins_s)
    while True:
        with host.request():
            await asyncio.sleep(client.patience_s)
        await asyncio.sleep(client.pause_s)


async def ask_and_be_answered(host: Host, client: Client, begins_s: float = 0.0) -> None:
    """A piece of the answer comes when its patience ends."""
    await asyncio.sleep(begins_s)
    while True:
        with host.request() as waited:
            await asyncio.sleep(client.patience_s)
        host.progress.came(waited)
        await asyncio.sleep(client.pause_s)


async def _at_work(host: Host) -> None:
    """On a third of a processor, whenever it is waited for."""
    host.works = 0.33
    await asyncio.sleep(0)


CLIENTS = st.builds(Client, st.floats(0.05, 300.0), st.floats(0.0, 300.0))
MANY = st.lists(st.tuples(CLIENTS, st.floats(0.0, 100.0)), min_size=1, max_size=5)
Many = list[tuple[Client, float]]


@settings(max_examples=200, deadline=None)
@given(clients=MANY)
def test_fault_099_engine_without_a_byte_and_without_work_is_found_once_it_was_waited_for_long_enough(
    clients: Many,
) -> None:
    """However early clients give up, and however often they ask anew: what they waited adds up."""
    most = min((each.patience_s + each.pause_s) / each.patience_s for each, _ in clients)
    doings = [partial(ask_in_vain, client=client, begins_s=begins_s) for client, begins_s in clients]
    host, hung_for_s = watched(*doings, for_s=200.0 + most * (LIMITS.hung_s + TICK_S + 600.0))
    assert hung_for_s is not None
    assert hung_for_s >= LIMITS.hung_s
    assert host.waited_s <= LIMITS.hung_s + TICK_S + 1e-6


@settings(max_examples=50, deadline=None)
@given(others=MANY)
def test_fault_099_one_request_that_gets_nothing_is_found_though_others_are_answered(others: Many) -> None:
    doings = [partial(ask_and_be_answered, client=client, begins_s=begins_s) for client, begins_s in others]
    patient = partial(ask_in_vain, client=Client(patience_s=1e6, pause_s=0.0))
    _, hung_for_s = watched(patient, *doings, for_s=LIMITS.hung_s + 2 * TICK_S)
    assert hung_for_s is not None


@settings(max_examples=50, deadline=None)
@given(clients=st.lists(st.tuples(st.builds(Client, st.floats(1.0, 59.0), st.floats(0.0, 300.0)), st.floats(0, 100))))
def test_engine_that_answers_in_time_is_left_alone_whatever_it_computes(clients: Many) -> None:
    doings = [partial(ask_and_be_answered, client=client, begins_s=begins_s) for client, begins_s in clients]
    assert watched(*doings, for_s=1500.0)[1] is None


@settings(max_examples=50, deadline=None)
@given(clients=st.lists(st.builds(Client, st.floats(0.05, 300.0), st.floats(0.0, 1000.0)), min_size=1, max_size=3))
def test_engine_that_works_has_much_longer_and_not_for_ever(clients: list[Client]) -> None:
    """A long text takes its time, and those who give up on it make it no shorter; but one that spins is no use."""
    host, hung_for_s = watched(_at_work, *(partial(ask_in_vain, client=each) for each in clients), for_s=5000.0)
    if hung_for_s is None:  # nobody waited for so long all in all, or not until the last look
        assert host.waited_s < LIMITS.silent_s + TICK_S
    else:
        assert hung_for_s >= LIMITS.silent_s
        assert host.waited_s <= LIMITS.silent_s + TICK_S + 1e-6


def test_engine_that_rested_owes_no_more_work_for_that() -> None:
    """A day without a request, then a long text: the first look sees work, and the day does not count."""

    late = partial(ask_in_vain, client=Client(1000.0, 0.0), begins_s=86_400.0)
    assert watched(_at_work, late, for_s=87_000.0)[1] is None


def test_what_it_takes_to_be_asked_is_no_work() -> None:
    """A hung engine, too, reads requests and says that all is well."""

    async def say_that_all_is_well(host: Host) -> None:
        while True:
            await asyncio.sleep(1.0)
            host.idle_cpu_s += 0.004

    impatient = partial(ask_in_vain, client=Client(0.5, 0.5))
    host, hung_for_s = watched(impatient, say_that_all_is_well, for_s=1000.0)
    assert hung_for_s is not None
    assert host.waited_s <= LIMITS.hung_s + TICK_S


def test_engine_is_not_blamed_for_the_time_in_which_airlab_stood_still() -> None:
    """A container that was frozen, a debugger: nobody looked, nobody read, and perhaps the engine stood still, too."""

    async def scene() -> tuple[float | None, float | None]:
        progress, waited = Progress(), Stopwatch()
        watch = Watch(progress, LIMITS, cpu_s=1.0)
        progress.begin(waited)
        await asyncio.sleep(TICK_S)
        assert watch.hung_for_s(cpu_s=1.0) is None
        await asyncio.sleep(10_000.0)
        thawed = watch.hung_for_s(cpu_s=1.0)
        found = None
        for _ in range(int(LIMITS.hung_s / TICK_S)):
            assert found is None
            await asyncio.sleep(TICK_S)
            found = watch.hung_for_s(cpu_s=1.0)
        return thawed, found

    with virtual_time() as loop:
        assert loop.run_until_complete(scene()) == (None, LIMITS.hung_s)


def test_engine_of_which_nobody_can_say_what_it_computes_has_the_longer_time() -> None:
    """A daemon of containers that is away for some minutes, in the middle of a long text."""

    async def scene() -> float:
        progress = Progress()
        watch = Watch(progress, LIMITS, cpu_s=1.0)
        progress.begin(Stopwatch())
        while True:
            await asyncio.sleep(TICK_S)
            if (hung_for_s := watch.hung_for_s(cpu_s=None)) is not None:
                return hung_for_s

    with virtual_time() as loop:
        assert loop.run_until_complete(scene()) == LIMITS.silent_s
