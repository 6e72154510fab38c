"""Runs one turn of a conversation, from request to done. Which turn may run when is the business of ``chat``.

What a turn asked for is fixed at its start; what guards and what runs is looked up at each use. A model is held for
one generation, never while a tool runs. A turn that does not reach its end is marked, and moves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs, to_builtins

from app.chat import events, toolmode
from app.chat.calls import TurnCalls
from app.chat.history import Account
from app.chat.model import Call, Models, Sampling, Usage
from app.chat.running import Running
from app.chat.window import Window
from app.errors import AirLabError, BadRequestError, SessionNotFoundError
from app.fleet import lease as leases
from app.fleet.fleet import Fleet
from app.fleet.lease import Lease, with_lease
from app.gate import Gate
from app.live.snapshot import Live, Snapshot
from app.messages import Message, ToolCall
from app.store.records import Again, Kept, Once, OpenTurn, SessionKey, SessionSettings
from app.store.sessions import Sessions, Unfinished
from app.tools.base import ToolSpec

log = logging.getLogger("airlab")

_WAIT_S = 540.0
"""How long a turn waits for its model at each round; below the 600 s after which common clients give up."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a client asks for; checked, its model found."""

    session_id: str
    account: Account
    model: str
    """A model's key."""
    sampling: Sampling
    system_prompt: str | None
    enable_tools: bool
    tool_choice: toolmode.Choice
    approvals: bool = False
    """Whether somebody listens who can allow what needs a person's word."""
    again: Again | None = None
    """Where in the stored tree the turn begins anew; else ``account`` says where."""
    asked: SessionSettings = field(default_factory=SessionSettings)
    """What the request itself set, kept for whoever resumes the turn."""
    once: Once | None = None
    """Set where a retry must not be a second turn."""
    keep_alive_s: float | None = None
    """How long its model stays loaded afterwards, where the request says so; infinite to keep it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What every turn stands on."""

    live: Live
    fleet: Fleet
    sessions: Sessions
    gate: Gate
    models: Models


class Turn:
    """One turn on its way."""

    def __init__(
        self,
        parts: Parts,
        snapshot: Snapshot,
        request: TurnRequest,
        key: SessionKey,
        running: Running,
    ) -> None:
        """``snapshot`` is the moment by which what the turn asked for is fixed."""
        self._parts, self._snapshot, self._request, self._key, self._running = parts, snapshot, request, key, running
        self._emit = running.tell
        self._usage = Usage()
        self._most_tokens = snapshot.manifest.chat.max_conversation_tokens
        """Of the conversation, a model is shown so much at most."""
        self._window = Window(parts.models, running.tell, most_tokens=self._most_tokens)
        self._calls = TurnCalls(parts.live, parts.gate, key, running.tell, may_ask=request.approvals)
        self._shown: list[str] = []
        """All the text that the client has got: the answer, and what was said before a call."""
        self._pieces = 0
        """How many pieces of text and of reasoning the client has got."""
        self._finish_reason: events.FinishReason = "stop"

    async def run(self) -> None:
        """Run it to its end, whatever that is, and have the store know it.

        Raises:
            AirLabError: It failed.
        """
        self._opening = asyncio.create_task(self._open())
        try:
            if self._request.again is not None:
                # A place that is not there is said at once, and not after a model has been loaded.
                await self._opened()
            answer, finish_reason = await self._rounds(*self._tools())
            await self._close(await self._opened(), answer, finish_reason)
        except asyncio.CancelledError:
            await _to_its_end(self._give_up("cancelled", "the client left"))
            raise
        except Exception as exc:
            await _to_its_end(self._give_up("failed", str(exc)))
            raise

    async def _opened(self) -> OpenTurn:
        """The turn, once it is in the store. Shielded: who waits may be cancelled, what is begun is not half done."""
        return await asyncio.shield(self._opening)

    async def _open(self) -> OpenTurn:
        """The turn in the store, beside the wait for the model."""
        account, request = self._request.account, self._request
        turn = await self._parts.sessions.open_turn(
            self._key,
            account.said,
            from_root=account.from_root,
            model=request.model,
            again=request.again,
            asked=request.asked,
            most_tokens=self._most_tokens,
        )
        self._window.read(turn)
        opened = events.TurnOpened(
            session_id=self._key.name, turn=turn.id, model=request.model, user_message_id=turn.user_message_id
        )
        self._emit(opened)
        resumed = request.again is not None and request.again.way == "resume"
        if turn.previous_unfinished is not None and not resumed:
            self._emit(events.Notice(message=f"the turn before this one was {turn.previous_unfinished.status}"))
        return turn

    def _tools(self) -> tuple[tuple[ToolSpec, ...], toolmode.Choice]:
        """The tools on offer, and the choice among them; says why there are none where they were asked for."""
        choice = self._request.tool_choice
        if not self._request.enable_tools or choice == "none":
            return (), "none"
        if not self._snapshot.tools_on:
            self._emit(events.Notice(message="no tools: the server's switch is off (POST /command tools on)"))
            return (), "none"
        tools, why_not = self._parts.gate.offered()
        if why_not:
            self._emit(events.Notice(message=why_not))
        cannot_run = choice not in {"auto", "required", *(tool.name for tool in tools)}
        return tools, "auto" if cannot_run else choice

    async def _rounds(
        self, tools: tuple[ToolSpec, ...], choice: toolmode.Choice
    ) -> tuple[Message, events.FinishReason]:
        """Call the model, run what it asks for, call it again; at last it speaks."""
        limit = self._snapshot.manifest.chat.max_tool_iterations
        for _ in range(limit if tools else 0):
            answer = await self._generate(tools, choice)
            if not answer.tool_calls:
                return answer, self._finish_reason
            if all(any(_same(call, made) for made in self._calls.made) for call in answer.tool_calls):
                # The same call once more would bring the same answer: let it speak with what it has.
                return await self._generate((), "none"), self._finish_reason
            await self._run_tools(await self._opened(), answer)
            # A call was forced once; whether there is another is the model's choice.
            choice = "auto"
        answer = await self._generate((), "none")
        return answer, "tool_limit" if tools else self._finish_reason

    async def _generate(self, tools: tuple[ToolSpec, ...], choice: toolmode.Choice) -> Message:
        """One lease: the model decides on a call, or speaks."""
        shown_before = self._pieces

        async def work(lease: Lease) -> Message:
            await self._opened()
            template = await self._parts.models.template(lease.upstream)
            call = Call(lease, template, self._system_prompt, tools, choice, self._request.sampling, self._usage)
            branch = await self._window.fitting(call)
            if call.decides_first:
                decided = await call.decide(branch, f"call_{len(self._calls.made)}")
                if decided is not None:
                    return Message("assistant", "", (decided,))
                if choice != "auto":
                    self._emit(events.Notice(message="the tool call was cut short and could not be read"))
            return await self._speak(call, branch)

        return await with_lease(
            self._parts.fleet,
            self._request.model,
            work,
            deadline_s=time.monotonic() + _WAIT_S,
            begun=lambda: self._pieces > shown_before,
            waiting=self._tell_waiting,
            keep_alive_s=self._request.keep_alive_s,
        )

    async def _speak(self, call: Call, branch: list[Message]) -> Message:
        """Stream an answer out. Its text is all that this turn has shown: what the client holds is what is stored."""
        reasoning: list[str] = []
        begun = False
        async for piece in call.speak(branch):
            self._pieces += 1
            if piece.reasoning:
                reasoning.append(piece.reasoning)
                self._emit(events.Reasoning(text=piece.reasoning))
            if piece.text:
                self._show(piece.text if begun or not self._shown else f"\n\n{piece.text}")
                begun = True
        generated = call.generated
        self._finish_reason = "length" if generated.finish_reason == "length" else "stop"
        # Some models go on calling when nothing is on offer any more; such a call is not run, and no answer.
        if generated.calls and call.tools:
            return Message("assistant", "", generated.calls, reasoning="".join(reasoning) or None)
        return Message("assistant", "".join(self._shown), reasoning="".join(reasoning) or None)

    def _show(self, text: str) -> None:
        self._shown.append(text)
        self._emit(events.Token(text=text))

    @property
    def _system_prompt(self) -> str:
        own = self._request.account.system_prompt
        return next(
            prompt for prompt in (own, self._request.system_prompt, self._snapshot.system_prompt) if prompt is not None
        )

    async def _run_tools(self, turn: OpenTurn, answer: Message) -> None:
        """Run the calls of one round; the round goes into the store as a whole."""
        results = await self._calls.run(turn.id, answer.tool_calls)
        said = [answer, *(Message("tool", result.content, tool_call_id=result.call.id) for result in results)]
        self._window.add(await self._parts.sessions.append(turn.id, said), said)

    async def _close(self, turn: OpenTurn, answer: Message, finish_reason: events.FinishReason) -> None:
        usage = self._usage
        done = events.TurnDone(
            session_id=self._key.name,
            model=self._request.model,
            device=self._snapshot.models[self._request.model].device,
            finish_reason=finish_reason,
            tokens_input=usage.prompt_tokens,
            tokens_generated=usage.generated_tokens,
            tokens_total=usage.prompt_tokens + usage.generated_tokens,
            generation_time=round(usage.generation_s, 4),
            tokens_per_second=round(usage.generated_tokens / usage.generation_s, 2) if usage.generation_s else 0.0,
            user_message_id=turn.user_message_id,
        )
        detail = {"finish_reason": finish_reason, "cut": to_builtins(self._window.cut)}
        once = self._request.once
        answer_id = await self._parts.sessions.close_turn(
            turn.id,
            answer,
            counts=self._window.counts,
            detail={name: value for name, value in detail.items() if value is not None},
            kept=None if once is None else Kept(once, events.kept(self._running.told, done)),
        )
        self._emit(structs.replace(done, message_id=answer_id))

    async def _give_up(self, status: Unfinished, error: str) -> None:
        """Mark the turn as what it is; a turn that was never opened needs no mark."""
        try:
            turn = await self._opened()
            await self._parts.sessions.end_turn(turn.id, status, error)
        except (BadRequestError, SessionNotFoundError):
            return  # it was never opened, and the client is told why
        except AirLabError as exc:
            # The client is told what went wrong first; the session's next turn, or the next start, marks this one.
            log.warning("a turn's end could not be written down: %s", exc.message)

    def _tell_waiting(self, waiting: leases.Waiting) -> None:
        eta_s = None if waiting.eta_s is None else round(waiting.eta_s, 1)
        self._emit(events.Waiting(model=waiting.key, state=waiting.state, ahead=waiting.ahead, eta_s=eta_s))


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it wholly, however often whoever waits is cancelled meanwhile: a web server does so more than once."""
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)


def _same(call: ToolCall, other: ToolCall) -> bool:
    return (call.name, call.arguments) == (other.name, other.arguments)
