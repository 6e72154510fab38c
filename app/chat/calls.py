"""Runs the calls that a turn's model makes: independent ones side by side, dependent ones in the model's order.

The turn's time for tools is counted here, waits for a person's word included; whether a call may run is the gate's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Literal

from app.approvals import Approval
from app.chat import events
from app.chat.order import predecessors
from app.gate import Gate
from app.live.snapshot import Live
from app.messages import ToolCall, ToolResult
from app.store.records import SessionKey
from app.turnguard import TurnGuard

_AT_ONCE = 16
"""Calls that one round runs; a model may write hundreds."""
_TOO_MANY = f"Not run: at most {_AT_ONCE} calls at a time. Ask for it again, alone."
_OFF = "Denied: tools were switched off. Answer without them."


class TurnCalls:
    """The tool calls of one turn."""

    def __init__(
        self, live: Live, gate: Gate, key: SessionKey, emit: Callable[[events.TurnEvent], None], *, may_ask: bool
    ) -> None:
        """Nothing has run yet. ``may_ask``: somebody listens who can allow what needs a person's word."""
        self.made: list[ToolCall] = []
        """Those that ran, or were refused, so far."""
        self._live, self._gate, self._key, self._emit, self._may_ask = live, gate, key, emit, may_ask
        self._guard = TurnGuard()
        self._spent_s = 0.0

    async def run(self, turn_id: int, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Run one round; an answer for each call, in their order. A cancelled turn ends what runs."""
        for call in calls:
            self._emit(events.ToolStarted(id=call.id, name=call.name, arguments=call.arguments))
        begun_s = time.monotonic()
        policy = self._live.current.policy
        deadline_s = begun_s + policy.turn_s - self._spent_s
        some, rest = calls[:_AT_ONCE], calls[_AT_ONCE:]
        earlier = predecessors(some, policy.tools)
        ended = [asyncio.Event() for _ in some]

        async def in_order(at: int) -> ToolResult:
            for before in earlier[at]:
                await ended[before].wait()
            try:
                return await self._call(turn_id, some[at], deadline_s)
            finally:
                ended[at].set()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(in_order(at)) for at in range(len(some))]
        self._spent_s += time.monotonic() - begun_s
        self.made.extend(some)
        return [*(task.result() for task in tasks), *(self._not_run(call, "error", _TOO_MANY) for call in rest)]

    async def _call(self, turn_id: int, call: ToolCall, deadline_s: float) -> ToolResult:
        # Looked up at each call: the switch guards, and what was on offer when the turn began does not bind it.
        if not self._live.current.tools_on:
            return self._not_run(call, "denied", _OFF)
        result = await self._gate.call(
            call,
            actor=self._key.owner,
            session=self._key.name,
            turn=turn_id,
            approvals=self._ask if self._may_ask else None,
            deadline_s=deadline_s,
            guard=self._guard,
        )
        return self._told(result)

    def _ask(self, approval: Approval) -> None:
        self._emit(
            events.ApprovalAsked(
                id=approval.id,
                call=approval.call_id,
                tool=approval.tool,
                words=approval.words,
                arguments=approval.arguments,
                limit_s=approval.limit_s,
            )
        )

    def _not_run(self, call: ToolCall, status: Literal["denied", "error"], why: str) -> ToolResult:
        content = json.dumps({"status": "error", "code": "not_run", "error": why})
        return self._told(ToolResult(call, status, content, why, 0.0))

    def _told(self, result: ToolResult) -> ToolResult:
        call = result.call
        self._emit(
            events.ToolEnded(
                id=call.id,
                name=call.name,
                arguments=call.arguments,
                status=result.status,
                result=result.content,
                verdict=result.reason,
                duration_s=round(result.duration_s, 4),
                ran=result.ran,
            )
        )
        return result
