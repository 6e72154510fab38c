"""Slots of models on other servers: lent in order, given back, ended with the model; addresses as people write them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from app.devices.probe import Host
from app.devices.profiles import choose_profile
from app.errors import AirLabError, DrainingError, QueueFullError, UnavailableError, UpstreamError, WaitTimeoutError
from app.fleet.afar import Address, RemoteUpstream, said
from app.fleet.remotes import Remote, Remotes
from app.fleet.spec import ModelSpec, model_specs
from app.fleet.states import Limits, State
from app.journal import Journal
from app.weights.inventory import Inventory
from tests.support.manifest import loaded

BOUND_S = 10.0


@pytest.fixture
async def remotes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Remotes]:
    """One server that answers, with two slots and a queue of two."""

    async def look(_self: RemoteUpstream, model: str) -> None:
        if model == "away":
            raise UpstreamError("nobody listens")

    monkeypatch.setattr(RemoteUpstream, "look", look)
    made = Remotes(Journal(), Limits(queue=2), look_s=3600)
    made.want({"far": far("far")})
    await made.wait_for("far", deadline_s=soon(), takes_slot=False)
    yield made
    await made.drain(within_s=0)


def far(key: str, *, slots: int = 2, url: str = "http://ray-head:8000/v1") -> ModelSpec:
    models = {"near": {"filename": "near.gguf"}, key: {"remote": {"url": url}, "parallel": slots}}
    manifest, host = loaded("near", models).manifest, Host(cores=2, can_offload=False)
    choice = choose_profile(manifest.profiles, host, forced=None)
    return model_specs(manifest, choice, host, Inventory(), forced_gpu_layers=None)[key]


def soon() -> float:
    return time.monotonic() + BOUND_S


def take(remotes: Remotes) -> Remote:
    taken = remotes.take_free("far")
    assert taken is not None
    return taken


def waiter(remotes: Remotes, deadline_s: float | None = None) -> asyncio.Task[Remote]:
    return asyncio.create_task(remotes.wait_for("far", deadline_s=deadline_s or soon(), takes_slot=True))


async def test_slots_are_lent_up_to_their_number_and_then_in_order(remotes: Remotes) -> None:
    first, _ = take(remotes), take(remotes)
    assert remotes.take_free("far") is None
    one, two = waiter(remotes), waiter(remotes)
    await asyncio.sleep(0)
    assert remotes.status()["far"].waiting == 2
    with pytest.raises(QueueFullError):
        await waiter(remotes)

    remotes.give_back(first)
    assert await one is first
    assert remotes.take_free("far") is None, "nobody overtakes who waits"
    assert not two.done()
    remotes.give_back(first)
    assert await two is first
    assert remotes.status()["far"].busy == 2


async def test_waiter_that_leaves_takes_no_slot_with_it(remotes: Remotes) -> None:
    first, second = take(remotes), take(remotes)
    gone = waiter(remotes)
    await asyncio.sleep(0)
    gone.cancel()
    remotes.give_back(first)  # granted and cancelled in one turn of the loop
    with pytest.raises(asyncio.CancelledError):
        await gone
    remotes.give_back(second)
    assert remotes.status()["far"].busy == 0
    assert remotes.status()["far"].waiting == 0


async def test_deadline_ends_the_wait(remotes: Remotes) -> None:
    for _ in range(2):
        take(remotes)
    with pytest.raises(WaitTimeoutError):
        await waiter(remotes, deadline_s=time.monotonic())


async def test_model_that_is_removed_serves_what_it_has_and_lends_no_more(remotes: Remotes) -> None:
    first, _ = take(remotes), take(remotes)
    waits = waiter(remotes)
    await asyncio.sleep(0)
    remotes.want({})
    with pytest.raises(DrainingError):
        await waits
    assert "far" not in remotes
    assert remotes.take_free("far") is None
    assert not first.idle.is_set()
    remotes.give_back(first)
    remotes.give_back(first)
    assert first.idle.is_set()


async def test_edit_of_anything_but_the_server_keeps_the_connections(remotes: Remotes) -> None:
    first = take(remotes)
    remotes.want({"far": far("far")})
    assert take(remotes) is first
    remotes.want({"far": far("far", url="http://elsewhere/v1")})
    await remotes.wait_for("far", deadline_s=soon(), takes_slot=False)
    assert take(remotes) is not first


async def test_server_that_is_away_is_said_to_be(remotes: Remotes) -> None:
    remotes.want({"away": far("away")})
    assert remotes.status()["away"].state is State.STARTING
    with pytest.raises(UnavailableError, match=r"not to be had from http://ray-head:8000/v1: nobody listens"):
        await remotes.wait_for("away", deadline_s=soon(), takes_slot=True)
    assert remotes.status()["away"].state is State.COOLING


async def test_requests_for_a_server_that_is_away_are_answered_by_one_look(
    remotes: Remotes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten at once were answered one look after the other, the last one after ten times as long."""
    looks, answered = 0, asyncio.Event()

    async def look(upstream: RemoteUpstream, _model: str) -> None:
        nonlocal looks
        looks += 1
        await answered.wait()
        raise upstream._broken(ConnectionRefusedError("nobody listens"))

    monkeypatch.setattr(RemoteUpstream, "look", look)
    monkeypatch.setattr("app.fleet.remotes._SOON_S", BOUND_S)
    remotes.want({"away": far("away")})
    asking = [asyncio.create_task(remotes.wait_for("away", deadline_s=soon(), takes_slot=True)) for _ in range(10)]
    await asyncio.sleep(0)
    answered.set()
    errors = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(error) for error in errors} == {UnavailableError}
    with pytest.raises(UnavailableError):
        await remotes.wait_for("away", deadline_s=soon(), takes_slot=True)
    assert looks == 1, "nor is one asked again that was away this very moment"


async def test_look_that_fails_in_an_unforeseen_way_ends_no_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended for good, requests were 500s, and only an edit of the model helped."""
    looks: asyncio.Queue[None] = asyncio.Queue()

    async def look(_self: RemoteUpstream, _model: str) -> None:
        looks.put_nowait(None)
        raise ZeroDivisionError

    monkeypatch.setattr(RemoteUpstream, "look", look)
    remotes = Remotes(Journal(), Limits(), look_s=0)
    remotes.want({"odd": far("odd")})
    async with asyncio.timeout(BOUND_S):
        for _ in range(3):
            await looks.get()
            vars(remotes._remotes["odd"])["looked_s"] = float("-inf")
        with pytest.raises(UnavailableError, match="AirLab failed at asking it: ZeroDivisionError"):
            await remotes.wait_for("odd", deadline_s=soon(), takes_slot=True)
    assert "ZeroDivisionError" in caplog.text
    await remotes.drain(within_s=0)


def refused(status: int, words: str, key: str | None = "k") -> AirLabError:
    upstream = RemoteUpstream(Address.of("http://ray-head:8000/v1"), key, context_tokens=8192)
    return upstream.refusal(status, msgspec.json.encode({"error": {"message": words}}))


@pytest.mark.parametrize(
    ("error", "key_env", "words"),
    [
        (
            refused(401, "Invalid API Key"),
            "VLLM_KEY",
            "the server does not take the key that AirLab sends (401): Invalid API Key; to fix: set the environment "
            "variable VLLM_KEY to a key that it takes, and start AirLab anew",
        ),
        (
            refused(401, "Who are you?", None),
            None,
            "the server wants a key (401): Who are you?; to fix: give the model a key_env",
        ),
        (
            refused(403, "not for you"),
            "VLLM_KEY",
            "the server does not permit this to the key that AirLab sends (403): not for you; to fix: set the "
            "environment variable VLLM_KEY to a key that it takes, and start AirLab anew",
        ),
        (refused(400, "bad \x1b[31mkey\n 401"), "VLLM_KEY", "the server refused the request: bad [31mkey 401"),
        (UpstreamError("it has no model 'monkey-403'"), "VLLM_KEY", "it has no model 'monkey-403'"),
    ],
)
def test_only_a_401_and_a_403_are_about_the_key(error: AirLabError, key_env: str | None, words: str) -> None:
    """Not any answer that happens to say so; and nothing of a server's words works a terminal."""
    assert said(error, key_env) == words


async def test_end_breaks_off_what_does_not_end_in_time(remotes: Remotes) -> None:
    first = take(remotes)
    await remotes.drain(within_s=0)
    assert first.idle.is_set()
    with pytest.raises(DrainingError):
        await first.upstream.send("/v1/models")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://ray-head:8000/v1", ("ray-head", 8000, False, "", "ray-head:8000")),
        ("http://ray-head:8000/v1/", ("ray-head", 8000, False, "", "ray-head:8000")),
        ("http://lab", ("lab", 80, False, "", "lab")),
        ("https://lab.example/team/v1", ("lab.example", 443, True, "/team", "lab.example")),
        ("http://[::1]:8080", ("::1", 8080, False, "", "[::1]:8080")),
    ],
)
def test_address_is_read_with_and_without_v1(url: str, parts: tuple[Any, ...]) -> None:
    address = Address.of(url)
    assert (address.host, address.port, address.tls, address.root, address.netloc) == parts
