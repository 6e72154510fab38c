"""Answers one list of messages with the server's tools, and keeps nothing: for clients that hold the conversation.

The loop of a turn without its session: the model decides or speaks, its calls run through the gate, it is called again,
and at last it speaks. No history is left out here: what is too long is the client's to cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.chat import events, toolmode
from app.chat.calls import TurnCalls
from app.chat.history import Counted
from app.chat.model import Call, Models, Sampling, Usage
from app.chat.results import with_short_results
from app.chat.running import without_trace
from app.chat.stream import Piece
from app.chat.turn import Parts
from app.errors import BadRequestError
from app.fleet.lease import Lease, Waiting, with_lease
from app.messages import Message
from app.store.records import SessionKey
from app.tools.base import ToolSpec

_SESSION = "v1"
"""What the audit says in the place of a session."""


@dataclass(frozen=True, slots=True)
class OnceRequest:
    """What is to be answered; checked, its model found."""

    messages: Sequence[Message]
    """The client's, without the system prompt."""
    system_prompt: str
    model: str
    """A model's key."""
    sampling: Sampling
    tools: tuple[ToolSpec, ...]
    """Those that were asked for by name, and may run."""
    choice: toolmode.Choice
    wait_s: float
    """How long each round may wait for the model."""
    keep_alive_s: float | None = None
    """How long the model stays loaded afterwards, where the request says so; infinite to keep it."""


class Line(Protocol):
    """Who is told of the waits for the model: there is one before each call of it, if not for long."""

    def wait(self, waiting: Waiting) -> None:
        """What is waited for, and whenever that changes."""

    def waited(self) -> None:
        """The wait is over, if there was one."""


class Answering:
    """One answer on its way."""

    def __init__(self, parts: Parts, request: OnceRequest, *, actor: str, line: Line) -> None:
        """Nothing is asked yet."""
        self.usage = Usage()
        """What the calls of the model took, so far."""
        self.finish_reason = "stop"
        """How it ended, once it has: stop, or length."""
        self._parts, self._request, self._line = parts, request, line
        self._calls = TurnCalls(parts.live, parts.gate, SessionKey(actor, _SESSION), _unheard, may_ask=False)
        self._branch = list(request.messages)
        self._pieces = 0

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The answer as it comes; leaving early ends what runs.

        Raises:
            AirLabError: It failed.
        """
        queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        running = asyncio.create_task(without_trace(self._run(queue.put_nowait)))
        running.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _run(self, tell: Callable[[Piece], None]) -> None:
        choice = self._request.choice
        for _ in range(self._parts.live.current.manifest.chat.max_tool_iterations):
            answer = await self._round(self._request.tools, choice, tell)
            if not answer.tool_calls:
                return
            made = {(call.name, call.arguments) for call in self._calls.made}
            if made >= {(call.name, call.arguments) for call in answer.tool_calls}:
                break  # the same once more would bring the same answer
            results = await self._calls.run(0, answer.tool_calls)
            said = (Message("tool", result.content, tool_call_id=result.call.id) for result in results)
            self._branch += [answer, *said]
            # A call that had to happen has happened.
            choice = "auto"
        await self._round((), "none", tell)

    async def _round(
        self, tools: tuple[ToolSpec, ...], choice: toolmode.Choice, tell: Callable[[Piece], None]
    ) -> Message:
        request, before = self._request, self._pieces

        async def work(lease: Lease) -> Message:
            self._line.waited()
            template = await self._parts.models.template(lease.upstream)
            call = Call(lease, template, request.system_prompt, tools, choice, request.sampling, self.usage)
            branch = await _with_room(self._parts.models, call, self._branch)
            if call.decides_first:
                decided = await call.decide(branch, f"call_{len(self._calls.made)}")
                if decided is not None:
                    return Message("assistant", "", (decided,))
            text: list[str] = []
            async for piece in call.speak(branch):
                self._pieces += 1
                text.append(piece.text)
                tell(piece)
            self.finish_reason = "length" if call.generated.finish_reason == "length" else "stop"
            return Message("assistant", "".join(text), call.generated.calls if tools else ())

        return await with_lease(
            self._parts.fleet,
            request.model,
            work,
            deadline_s=time.monotonic() + request.wait_s,
            begun=lambda: self._pieces > before,
            waiting=self._line.wait,
            keep_alive_s=request.keep_alive_s,
        )


async def _with_room(models: Models, call: Call, branch: Sequence[Message]) -> list[Message]:
    """The messages, what tools returned cut to what the model's context has room for.

    Raises:
        BadRequestError: There is none.
    """
    upstream, template = call.lease.upstream, call.template

    async def count(message: Message) -> int:
        return await models.count(upstream, call.lease.counted_by, message)

    taken = template.base_tokens + await count(Message("system", call.system_text(deciding=call.decides_first)))
    if call.tools and call.mode == "native":
        taken += await count(Message("system", str(toolmode.native_tools(call.tools))))
    room = template.context_tokens - min(call.sampling.max_tokens, template.context_tokens // 2) - taken
    if room <= 0:
        raise BadRequestError(
            f"the tools and the answer leave no room: this model's maximum context length is {template.context_tokens} "
            "tokens. Ask for fewer server_tools or a smaller max_tokens",
            param="server_tools",
            code="context_length_exceeded",
        )
    counted = [Counted(message, await count(message)) for message in branch]
    return [item.message for item in await with_short_results(counted, budget_tokens=room, count=count)]


def _unheard(_: events.TurnEvent) -> None:
    """OpenAI's streams have no events for what the server does by itself."""
