"""The calls of one turn: in which order they run, who is asked, and when the turn's time for them is over."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, cast

from app.approvals import Approval
from app.chat import events
from app.chat.calls import TurnCalls
from app.devices.probe import Host
from app.gate import Gate
from app.live.inputs import first_snapshot
from app.live.snapshot import Live
from app.messages import ToolCall, ToolResult
from app.settings import Settings
from app.store.records import SessionKey
from tests.support.manifest import loaded

BOUND_S = 20.0
WRITE: dict[str, object] = {"path": "/w/a", "lines": ["x"]}


class RecordingGate:
    """Notes when each call begins and ends; a call ends when it is let go."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.given: list[dict[str, Any]] = []
        self.begun = asyncio.Semaphore(0)
        self.may_end = asyncio.Semaphore(0)

    async def call(self, call: ToolCall, **given: Any) -> ToolResult:
        self.log.append(f"begin {call.id}")
        self.given.append(given)
        self.begun.release()
        await self.may_end.acquire()
        self.log.append(f"end {call.id}")
        return ToolResult(call, "ok", "{}", "allowed", 0.0, ran=True)


def turn_calls(gate: RecordingGate, tmp_path: Any, *, may_ask: bool = False) -> tuple[TurnCalls, list[Any]]:
    manifest = loaded("m", {"m": {"filename": "m.gguf"}}, policy={"limits": {"turn": 7}})
    live = Live(first_snapshot(manifest, Settings(manifest=tmp_path / "airlab.yaml"), Host(4, can_offload=False)))
    emitted: list[Any] = []
    emit: Callable[[events.TurnEvent], None] = emitted.append
    return TurnCalls(live, cast(Gate, gate), SessionKey("key", "s"), emit, may_ask=may_ask), emitted


def call(number: int, name: str, arguments: dict[str, object]) -> ToolCall:
    return ToolCall(str(number), name, json.dumps(arguments))


async def test_writes_to_one_path_keep_their_order_and_others_do_not_wait(tmp_path: Any) -> None:
    gate = RecordingGate()
    calls, _ = turn_calls(gate, tmp_path)
    asked = [call(1, "write_file", WRITE), call(2, "write_file", WRITE), call(3, "get_current_time", {})]
    async with asyncio.timeout(BOUND_S):
        running = asyncio.create_task(calls.run(1, asked))
        await gate.begun.acquire()
        await gate.begun.acquire()
        assert sorted(gate.log) == ["begin 1", "begin 3"]
        for _ in asked:
            gate.may_end.release()
        results = await running
    assert [result.call.id for result in results] == ["1", "2", "3"]
    assert gate.log.index("end 1") < gate.log.index("begin 2")


async def test_turns_time_for_tools_is_what_its_rounds_left(tmp_path: Any) -> None:
    gate = RecordingGate()
    calls, _ = turn_calls(gate, tmp_path)
    for _ in range(2):
        gate.may_end.release()
        async with asyncio.timeout(BOUND_S):
            await calls.run(1, [call(1, "get_current_time", {})])
    first, second = (given["deadline_s"] for given in gate.given)
    assert first <= time.monotonic() + 7
    assert second >= first, "the clock goes on between rounds, the time for tools does not"


async def test_only_a_turn_that_somebody_follows_may_ask(tmp_path: Any) -> None:
    gate = RecordingGate()
    gate.may_end.release()
    calls, _ = turn_calls(gate, tmp_path)
    await calls.run(1, [call(1, "get_current_time", {})])
    assert gate.given[0]["approvals"] is None

    gate.may_end.release()
    calls, emitted = turn_calls(gate, tmp_path, may_ask=True)
    await calls.run(1, [call(1, "get_current_time", {})])
    gate.given[1]["approvals"](Approval("id", "1", "delete_file", "delete it?", "{}", "key", "s", 60.0, 0))
    asked = next(event for event in emitted if isinstance(event, events.ApprovalAsked))
    assert (asked.id, asked.call, asked.tool, asked.words) == ("id", "1", "delete_file", "delete it?")


async def test_calls_beyond_the_sixteenth_are_answered_and_not_run(tmp_path: Any) -> None:
    gate = RecordingGate()
    calls, _ = turn_calls(gate, tmp_path)
    for _ in range(16):
        gate.may_end.release()
    results = await calls.run(1, [call(number, "get_current_time", {}) for number in range(18)])
    assert [result.status for result in results] == ["ok"] * 16 + ["error"] * 2
    assert len(calls.made) == 16
