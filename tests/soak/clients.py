"""Clients of a soak: they ask without a pause, count what they were promised, and time what came late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from tests.support.service import BOUND_S, CHAT, HELLO

STREAMS, TOKENS, TOKEN_S = 8, 100, 0.025
PROBE_EVERY_S = 0.1
MOST_DELAY_S = 0.05
"""Beyond what this machine does by itself."""


@dataclass
class Delays:
    """How much later than the engine said it something came, in seconds."""

    tokens: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    answers: int = 0
    """Streams that came to their end."""
    late: Counter[str] = field(default_factory=Counter)
    """What came later than it may, by what was going on."""
    going_on: str = "nothing"

    def enter(self, values: list[float], delay_s: float) -> None:
        values.append(delay_s)
        if delay_s > MOST_DELAY_S:
            self.late[self.going_on] += 1

    @property
    def worst_s(self) -> float:
        return max((*self.tokens, *self.probes))


class Clients:
    """Ask without a pause; what comes late is entered where ``delays`` points at that time."""

    def __init__(self, url: str) -> None:
        self.delays = Delays()
        self.failures: list[str] = []
        self._http = httpx.AsyncClient(base_url=url, timeout=BOUND_S, limits=httpx.Limits(max_connections=None))
        self._stopping = False

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._stream_on()) for _ in range(STREAMS)]
        tasks.append(asyncio.create_task(self._probe_on()))
        try:
            yield
        finally:
            self._stopping = True
            async with asyncio.timeout(BOUND_S):
                ended = await asyncio.gather(*tasks, return_exceptions=True)
            await self._http.aclose()
        self.failures += [repr(failure) for failure in ended if isinstance(failure, BaseException)]

    async def _stream_on(self) -> None:
        asked = {"model": "small", "messages": HELLO, "max_tokens": TOKENS, "stream": True}
        while not self._stopping:
            words, text, last_s = 0, b"", 0.0
            async with self._http.stream("POST", CHAT, json=asked) as answer:
                async for piece in answer.aiter_raw():
                    now_s = time.perf_counter()
                    if last_s and b"word" in piece:
                        self.delays.enter(self.delays.tokens, now_s - last_s - TOKEN_S)
                    last_s, text = now_s, text[-64:] + piece
                    words += piece.count(b"word")
            self.delays.answers += 1
            if (answer.status_code, words, b"[DONE]" in text) != (200, TOKENS, True):
                self.failures.append(f"a stream ended after {words} of {TOKENS} tokens: {answer.status_code} {text!r}")

    async def _probe_on(self) -> None:
        asked = {"model": "other", "messages": HELLO, "max_tokens": 1}
        while not self._stopping:
            begun_s = time.perf_counter()
            answer = await self._http.post(CHAT, json=asked)
            self.delays.enter(self.delays.probes, time.perf_counter() - begun_s)
            if answer.status_code != 200:
                self.failures.append(f"a short request was answered {answer.status_code}: {answer.text[:200]}")
            await asyncio.sleep(PROBE_EVERY_S)
