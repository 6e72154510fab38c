"""A tool call never holds a model: a whole service in this process, real engines' processes, and a tool that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from app.chat.chat import Chat
from app.chat.events import TurnEvent, fold
from app.chat.history import read_account
from app.chat.model import Sampling
from app.chat.turn import TurnRequest
from app.gate import Gate
from app.manifest.load import read_manifest
from app.messages import Message
from app.service import Service
from app.settings import Settings
from app.store.records import SessionKey
from tests.chat.house import ScriptedGate
from tests.chat.talk import calls
from tests.conftest import MakeLab
from tests.support.service import Lab

BOUND_S = 30
TIME = "get_current_time"
ROOMY = {"context_length": 4096}
"""The descriptions of fifteen tools take a model's context, too."""


class HangingGate(ScriptedGate):
    """A gate whose calls end when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.let_go = asyncio.Semaphore(0), asyncio.Event()
        self.before = self._hang

    async def _hang(self, _: object) -> None:
        self.began.release()
        await self.let_go.wait()

    async def one_began(self) -> None:
        async with asyncio.timeout(BOUND_S):
            await self.began.acquire()


@asynccontextmanager
async def serving(lab: Lab) -> AsyncIterator[tuple[Service, HangingGate]]:
    """A service in this process, its gate replaced; when the block ends nothing of it is left."""
    named = {name: value for name, value in lab.full_environment.items() if name != "AIRLAB_PORT"}
    service = Service(Settings.model_validate(named), read_manifest(lab.manifest))
    gate = HangingGate()
    service.chat = Chat(service.live, service.fleet, service.sessions, cast(Gate, gate))
    async with asyncio.timeout(BOUND_S):
        await service.start()
    try:
        yield service, gate
    finally:
        async with asyncio.timeout(BOUND_S):
            gone = await service.stop(drain_s=0)
        assert gone
        assert lab.engine_processes() == []


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """Two models, one slot each; both call a tool first and then speak."""
    lab = make_lab("fake", models={"small": ROOMY, "other": ROOMY}, profile={"max_loaded": 2, "parallel": 1})
    for key in ("small", "other"):
        lab.fault(key, supports_tools=True, replies=[calls((TIME, {})), f"{key} speaks"])
    return lab


async def said(service: Service, session: str, model: str, *, tools: bool = False) -> dict[str, Any]:
    request = TurnRequest(
        session_id=session,
        account=read_account([Message("user", f"{session} to {model}")]),
        model=model,
        sampling=Sampling(temperature=0, max_tokens=64, top_p=1, top_k=0, repeat_penalty=1),
        system_prompt=None,
        enable_tools=tools,
        tool_choice="auto",
    )
    events: list[TurnEvent] = []
    async with asyncio.timeout(BOUND_S):
        async for event in service.chat.turn(request, actor="key"):
            events.append(event)  # noqa: PERF401 # a comprehension would hide where it hangs
    return fold(events)


async def test_while_a_tool_hangs_everybody_else_is_answered_by_both_models(lab: Lab) -> None:
    async with serving(lab) as (service, gate):
        hanging = [asyncio.create_task(said(service, "a", "small", tools=True))]
        await gate.one_began()

        assert service.fleet.status()["small"].busy == 0
        assert (await said(service, "b", "small"))["response"] == "small speaks"
        hanging.append(asyncio.create_task(said(service, "c", "other", tools=True)))
        await gate.one_began()
        assert (await said(service, "d", "other"))["response"] == "other speaks"
        assert (await said(service, "d", "small"))["response"] == "small speaks"
        assert not any(turn.done() for turn in hanging)

        gate.let_go.set()
        assert [answer["response"] for answer in await asyncio.gather(*hanging)] == ["small speaks", "other speaks"]


async def test_turns_of_one_session_wait_for_each_other_even_on_two_models(lab: Lab) -> None:
    lab.fault("other", replies=["other speaks"])
    async with serving(lab) as (service, gate):
        first = asyncio.create_task(said(service, "a", "small", tools=True))
        await gate.one_began()
        second = asyncio.create_task(said(service, "a", "other"))
        await said(service, "b", "other")
        assert not second.done()

        gate.let_go.set()
        await asyncio.gather(first, second)
        branch = await service.sessions.branch(SessionKey("key", "a"))

    assert [item.message.content for item in branch if item.message.visible] == [
        "a to small",
        "small speaks",
        "a to other",
        "other speaks",
    ]


async def test_model_may_be_evicted_while_a_tool_runs_and_comes_back_for_the_answer(make_lab: MakeLab) -> None:
    """With room for one model only: a turn that held its model would keep everybody else waiting for its tool."""
    lab = make_lab("fake", models={"small": ROOMY, "other": ROOMY}, profile={"max_loaded": 1, "parallel": 1})
    lab.fault("small", supports_tools=True, starts=[{"replies": [calls((TIME, {}))]}, {"replies": ["small speaks"]}])
    lab.fault("other", replies=["other speaks"])
    async with serving(lab) as (service, gate):
        hanging = asyncio.create_task(said(service, "a", "small", tools=True))
        await gate.one_began()
        assert (await said(service, "b", "other"))["response"] == "other speaks"
        gate.let_go.set()

        assert (await hanging)["response"] == "small speaks"
