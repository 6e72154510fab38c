"""Who is generating: at most ``--parallel`` at once, the rest in a queue, first come, first served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.fake_llama.answers import Body, Completion


@dataclass
class Generation:
    """One open generation, as far as it has come."""

    completion: Completion
    task: asyncio.Task[None]
    begun: bool = (
        False  # the head of a stream is out: what a stopping server cuts, while it leaves plain answers waiting
    )
    decoded: int = 0


class Slots:
    """The slots of one server, and what has happened in them."""

    def __init__(self, count: int, n_ctx: int) -> None:
        """``n_ctx`` is the context of one slot in tokens."""
        self.n_ctx = n_ctx
        self.queued = self.cancelled = self.decoded = self.started = 0
        self._open: list[Generation | None] = [None] * count
        self._free = asyncio.Semaphore(count)
        self._changed = asyncio.Event()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._open)

    @property
    def active(self) -> int:
        """How many generate."""
        return len(self.generations())

    def generations(self) -> list[Generation]:
        """Those that hold a slot."""
        return [generation for generation in self._open if generation]

    def counts(self) -> dict[str, int]:
        """Generations that hold a slot, that wait for one, and that a leaving client has ended."""
        return {"active": self.active, "queued": self.queued, "cancelled": self.cancelled}

    @asynccontextmanager
    async def hold(self, generation: Generation) -> AsyncIterator[None]:
        """Wait for a slot and keep it. A client that leaves meanwhile is counted, waiting or not."""
        try:
            self.queued += 1
            self._tell()
            try:
                await self._free.acquire()
            finally:
                self.queued -= 1
                self._tell()
            index = self._open.index(None)
            self._open[index] = generation
            self.started += 1
            self._tell()
            try:
                yield
            finally:
                self._open[index] = None
                self.decoded += generation.decoded
                self._free.release()
                self._tell()
        except asyncio.CancelledError:
            self.cancelled += 1
            self._tell()
            raise

    async def until(self, reached: Callable[[], bool]) -> None:
        """Come back once ``reached`` is true; it is asked again whenever something changes here."""
        while not reached():
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def page(self) -> list[Body]:
        """What GET /slots shows."""
        return [self._slot(index, generation) for index, generation in enumerate(self._open)]

    def _slot(self, index: int, generation: Generation | None) -> Body:
        slot: Body = {"id": index, "n_ctx": self.n_ctx, "speculative": False, "is_processing": generation is not None}
        if generation is None:
            return slot
        total = len(generation.completion.steps)
        slot |= {"id_task": generation.completion.number, "n_prompt_tokens": generation.completion.prompt_tokens}
        slot |= {"n_prompt_tokens_processed": generation.completion.prompt_tokens, "n_prompt_tokens_cache": 0}
        slot["params"] = {"n_predict": total, "stream": generation.completion.streams}
        progress = {"n_remain": total - generation.decoded, "n_decoded": generation.decoded}
        return slot | {"next_token": [{"has_next_token": True, "has_new_line": False, **progress}]}
