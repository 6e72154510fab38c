"""One worker as the service sees it: its process, and the channel that its one call goes over.

The service's side of ``worker/entry.py``. What comes out of a worker was made by a tool that met hostile data: it is
read as text of a bounded length, and anything that is no answer is the end of that worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
from collections.abc import Mapping
from typing import Any, NoReturn

from app.errors import ToolError

_START_S, _END_S, _LAST_WORDS_S = 20.0, 5.0, 1.0

UNFIT = "tools_unavailable"
"""The code of a failure that the next try would meet again: this system lacks what the worker needs."""
UNASKED = "worker_gone"
"""The code of a call that no worker heard of: another one may be asked without doing anything twice."""


class Worker:
    """One worker process and the channel to it."""

    def __init__(
        self,
        pid: int,
        watch: int,
        ended: asyncio.Future[int | None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Take over a worker that exists.

        Args:
            pid: Its process id, for people.
            watch: A descriptor of its process; ours to close.
            ended: Will hold its exit code; None where nobody could tell.
            reader: The channel, out of it.
            writer: The channel, into it.
        """
        self.pid = pid
        self._watch = watch
        self._ended = ended
        self._reader, self._writer = reader, writer
        self._ending: asyncio.Task[bool] | None = None

    @property
    def running(self) -> bool:
        """False once it has ended, for whatever reason."""
        if self._ending is not None:
            return False
        events = select.poll()
        events.register(self._watch, select.POLLIN)
        return not events.poll(0)

    async def get_ready(self) -> None:
        """Wait until it is behind its wall.

        Raises:
            ToolError: It did not get there; the message says why, and the worker is ended.
        """
        try:
            async with asyncio.timeout(_START_S):
                said = await self._hear()
        except TimeoutError as exc:
            await self.end()
            raise ToolError(f"a tool worker was not ready within {_START_S:.0f} s", code="worker_died") from exc
        except BaseException:
            await self.end()
            raise
        if said.get("ready") is not True:
            await self.end()
            raise ToolError(str(said.get("why")), code=UNFIT)

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send its one request, wait for its answer.

        Raises:
            ToolError: ``worker_died``: it ended, or answered with what is no answer. ``UNASKED``: it had ended before,
                so nothing was done.
        """
        if self._reader.at_eof():
            raise ToolError(await self._last_words(), code=UNASKED)
        with contextlib.suppress(OSError):  # that it is gone shows when it is heard
            self._writer.write(json.dumps(request).encode() + b"\n")
        return await self._hear()

    async def end(self) -> bool:
        """Kill it, with whatever it started; True once nothing is left. Runs to its end also when cancelled."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        return await asyncio.shield(self._ending)

    async def _hear(self) -> dict[str, Any]:
        try:
            line = await self._reader.readuntil(b"\n")
            said = json.loads(line, parse_constant=_refuse)
        except (BrokenPipeError, ConnectionResetError) as exc:
            # Some of the request was not taken, or lay there unread; its last byte is what makes it one.
            raise ToolError(await self._last_words(), code=UNASKED) from exc
        except (OSError, EOFError, ValueError, RecursionError, asyncio.LimitOverrunError) as exc:
            raise ToolError(await self._last_words(), code="worker_died") from exc
        if not isinstance(said, dict):
            raise ToolError(await self._last_words(), code="worker_died")
        return said

    async def _last_words(self) -> str:
        await self.end()
        await asyncio.wait({self._ended}, timeout=_LAST_WORDS_S)
        code = self._ended.result() if self._ended.done() else None
        how = "its zygote is gone" if code is None else f"exit code {code}"
        return f"the worker ended without an answer ({how})"

    async def _end(self) -> bool:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._watch, signal.SIGKILL)
        self._writer.close()
        gone = await _readable(self._watch, _END_S)
        os.close(self._watch)
        return gone


async def _readable(descriptor: int, within_s: float) -> bool:
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_reader(descriptor, seen.set)
    try:
        async with asyncio.timeout(within_s):
            await seen.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _refuse(constant: str) -> NoReturn:
    """JSON has no such number, so neither the store nor a client could take it."""
    raise ValueError(constant)
