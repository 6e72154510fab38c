"""One running fake llama-server and a client of it, for the tests of the fake itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.fake import fake_llama_server_command, grandchildren_of

HELLO = {"messages": [{"role": "user", "content": "Hello there, you"}]}
CHAT = "/v1/chat/completions"
BOUND_S = 20


@dataclass
class Engine:
    """One running fake and a client of it."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    path: Path

    async def said(self, text: str) -> str:
        """Wait for a line on stderr that holds ``text``."""
        assert self.process.stderr
        while line := (await self.process.stderr.readline()).decode():
            if text in line:
                return line
        raise AssertionError(f"ended without saying {text!r}")

    async def chat(self, **more: Any) -> httpx.Response:
        return await self.http.post(CHAT, json=HELLO | more)

    async def stream(self, path: str = CHAT, **more: Any) -> list[str]:
        """The events of a whole stream, without ``data: ``."""
        answer = await self.http.post(path, json=HELLO | {"stream": True} | more)
        assert answer.headers["content-type"] == "text/event-stream"
        return [block.removeprefix("data: ") for block in answer.text.split("\n\n") if block]

    async def count(self, name: str, *, reaching: int | None = None) -> dict[str, int]:
        """The counts, once the named one is ``reaching``."""
        query = {} if reaching is None else {"is": reaching}
        counts: dict[str, int] = (await self.http.get(f"/fake/{name}", params=query)).json()
        return counts


def model_file(folder: Path) -> Path:
    """Something to name as --model: the fake does not read it."""
    file = folder / "m.gguf"
    file.write_bytes(b"GGUF")
    return file


@asynccontextmanager
async def fake_engine(model: Path, *flags: str, said: str = "model loaded") -> AsyncIterator[Engine]:
    """Start the fake and wait until it has ``said`` so; it is gone when the block ends, after BOUND_S at the latest."""
    path = model.with_suffix(".sock")
    pipe = asyncio.subprocess.PIPE
    command = [str(fake_llama_server_command(model.parent)), "--model", str(model), "--host", str(path), *flags]
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env={})
    # No pool: a connection ends with a stream, and a client that uses it again may learn so too late.
    transport = httpx.AsyncHTTPTransport(uds=str(path), limits=httpx.Limits(max_keepalive_connections=0))
    try:
        async with asyncio.timeout(BOUND_S), httpx.AsyncClient(transport=transport, base_url="http://m") as http:
            engine = Engine(process, http, path)
            await engine.said(said)
            yield engine
    finally:
        # The grandchildren too: they would hold the pipe that communicate() reads to its end.
        for pid in [process.pid, *grandchildren_of(model)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.communicate()
        path.unlink(missing_ok=True)
