"""Carries a completion out, and every fault of the script that an answer can have.

Decides nothing about what is answered: that is planned in full before the first byte.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from tests.fake_llama import wire
from tests.fake_llama.answers import (
    Body,
    Completion,
    Refusal,
    Step,
    context_refusal,
    default_steps,
    echo_steps,
    pieces,
    prompt_of,
    scripted_steps,
)
from tests.fake_llama.options import Options
from tests.fake_llama.script import Script
from tests.fake_llama.slots import Generation, Slots

GARBAGE = b"data: {this is no JSON\n\nneither a field nor data\n\n"
BROKEN_UTF8 = "\udcff\udcfe"  # wire.to_json makes the lone bytes ff fe of it
HUGE_TOKEN_CHARS = 2**20


class CutOffError(Exception):
    """The connection shall end here, in the middle of the answer."""


async def wait_for_file(path: str) -> None:
    """Come back once the file exists."""
    # Rarely, since a process that loads in silence must not seem to make progress by its CPU time.
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 # another process makes it; one stat of a local file
        await asyncio.sleep(0.02)


def crash(script: Script) -> NoReturn:
    """Exit as the script says, without a goodbye to anybody."""
    if script.exit_message:
        print(script.exit_message, file=sys.stderr, flush=True)
    os._exit(1 if script.exit_code is None else script.exit_code)


class Completions:
    """Answers completions one after another, and remembers how many it was asked for."""

    def __init__(self, options: Options, script: Script, slots: Slots) -> None:
        """``stopping`` is set from outside, by SIGTERM."""
        self.stopping = False
        self._options = options
        self._script = script
        self._slots = slots
        self._asked = 0
        self._replied = 0
        self._rendered: dict[tuple[str, bool], bytes] = {}

    async def respond(self, connection: wire.Connection, route: str, body: Body, *, close: bool) -> None:
        """Answer one completion in full.

        Raises:
            Refusal: The answer is an error.
            CutOffError: The answer broke off, as the script says.
        """
        completion = self._plan(route, body)
        task = asyncio.current_task()
        assert task is not None
        generation = Generation(completion, task)
        async with self._slots.hold(generation):
            if self._script.health_ok_but_hung:
                await asyncio.Event().wait()
            if completion.streams:
                await self._stream(connection.writer, generation, close=close)
            else:
                await self._whole(connection.writer, generation, close=close)

    def instant(self, route: str, raw_body: bytes) -> bytes:
        """An answer rendered once and for all: as cheap as an upstream can be, to measure what stands before it."""
        key = route, b'"stream":true' in raw_body.replace(b" ", b"")
        if key not in self._rendered:
            completion = self._plan(route, {"stream": key[1], "messages": [], "prompt": ""})
            self._rendered[key] = _render(completion)
        return self._rendered[key]

    def _plan(self, route: str, body: Body) -> Completion:
        self._asked += 1
        script = self._script
        if self._asked == script.exit_at_request:
            crash(script)
        if self._asked <= script.unavailable_n_times:
            raise Refusal(503, "Loading model")
        if script.status is not None:
            raise Refusal(script.status, "as the script says")
        prompt = prompt_of(route, body)
        prompt_tokens = len(pieces(prompt))
        if prompt_tokens >= self._slots.n_ctx:
            raise context_refusal(prompt_tokens, self._slots.n_ctx)
        steps = self._steps(route, body)
        room = self._slots.n_ctx - prompt_tokens
        asked = body.get("max_completion_tokens", body.get("max_tokens", body.get("n_predict")))
        limit = room if asked is None or asked < 0 else min(room, asked)
        cut = limit < len(steps)
        created = int(time.time())
        name = self._options.alias
        return Completion(
            route, name, self._asked, created, prompt, prompt_tokens, steps[:limit] if cut else steps, cut, body
        )

    def _steps(self, route: str, body: Body) -> list[Step]:
        script = self._script
        if script.replies:
            reply = script.replies[min(self._replied, len(script.replies) - 1)]
            self._replied += 1
            steps = scripted_steps(reply, chat=route == "chat")
        else:
            steps = echo_steps(body) if script.echo else default_steps(script.tokens)
        if script.huge_line:
            steps.insert(1, "x" * HUGE_TOKEN_CHARS)
        if script.bad_utf8:
            steps.insert(1, BROKEN_UTF8)
        return steps

    async def _stream(self, writer: asyncio.StreamWriter, generation: Generation, *, close: bool) -> None:
        completion = generation.completion
        # Long before the first token, as the real one does: a status line is no sign of an answer.
        writer.write(wire.stream_head(close=close))
        generation.begun = True
        pinging = asyncio.create_task(self._ping(writer))
        try:
            for index in range(len(completion.steps)):
                await self._next_token(generation)
                if index == 1 and self._script.garbage_sse:
                    writer.write(wire.chunk(GARBAGE))
                writer.write(wire.chunk(b"".join(map(wire.event, completion.token_events(index)))))
                await writer.drain()
            await self._fault_here(generation)
        finally:
            pinging.cancel()
        writer.write(wire.chunk(_ending(completion, done=not self._script.no_done)) + wire.chunk(b""))
        await writer.drain()

    async def _ping(self, writer: asyncio.StreamWriter) -> None:
        """Keep a silent stream alive, as a thread of the real one does beside its generation."""
        while self._script.ping_s is not None:
            await asyncio.sleep(self._script.ping_s)
            writer.write(wire.chunk(b":\n\n"))

    async def _whole(self, writer: asyncio.StreamWriter, generation: Generation, *, close: bool) -> None:
        for _ in generation.completion.steps:
            await self._next_token(generation)
        await self._fault_here(generation)
        writer.write(wire.answer(200, wire.to_json(generation.completion.whole()), close=close))
        await writer.drain()

    async def _next_token(self, generation: Generation) -> None:
        await self._fault_here(generation)
        if generation.decoded and self._script.token_gate_file:
            await wait_for_file(self._script.token_gate_file)
        await asyncio.sleep(self._script.token_s)
        generation.decoded += 1

    async def _fault_here(self, generation: Generation) -> None:
        """Stall, break off or die, if that is due after the tokens that are out."""
        script, total = self._script, len(generation.completion.steps)

        def due(after_tokens: int | None) -> bool:
            return after_tokens is not None and generation.decoded == min(after_tokens, total)

        if due(script.die_after_tokens):
            os.kill(os.getpid(), signal.SIGKILL)
        if due(script.close_after_tokens):
            raise CutOffError
        # A real server that is told to stop leaves a plain answer unfinished, until its client goes.
        if self.stopping or due(script.stall_after_tokens):
            await asyncio.Event().wait()


def _ending(completion: Completion, *, done: bool = True) -> bytes:
    # The native route ends with its last event.
    mark = b"data: [DONE]\n\n" if done and completion.route != "native" else b""
    return b"".join(map(wire.event, completion.end_events())) + mark


def _render(completion: Completion) -> bytes:
    if not completion.streams:
        return wire.answer(200, wire.to_json(completion.whole()))
    tokens = [event for index in range(len(completion.steps)) for event in completion.token_events(index)]
    body = b"".join(map(wire.event, tokens)) + _ending(completion)
    return wire.stream_head() + wire.chunk(body) + wire.chunk(b"")
