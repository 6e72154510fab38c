"""A llama-server that answers everything at once with the same words: what is left of a request's time is AirLab's.

Run by its path, as an engine: takes llama-server's arguments and looks at ``--host`` alone, the path of a unix socket.
Imports nothing of AirLab's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys

import uvloop

_CHAT = {
    "choices": [{"finish_reason": "length", "index": 0, "message": {"role": "assistant", "content": "Hello"}}],
    "created": 1760000000,
    "model": "instant",
    "system_fingerprint": "instant",
    "object": "chat.completion",
    "usage": {"completion_tokens": 1, "prompt_tokens": 31, "total_tokens": 32},
    "id": "chatcmpl-00000000000000000000000000000000",
    "timings": {"cache_n": 30, "prompt_n": 1, "prompt_ms": 4.1, "predicted_n": 1, "predicted_ms": 0.001},
}
_BODY = json.dumps(_CHAT).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_BODY),
    _BODY,
)


class Instant(asyncio.Protocol):
    """One kept-alive connection."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        """Wait for the first request."""
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = transport  # type: ignore[assignment] # uvloop's are no asyncio.Transport by class

    def data_received(self, data: bytes) -> None:
        """Answer each request as soon as all of it is there."""
        self._received += data
        while (size := request_bytes(self._received)) is not None and len(self._received) >= size:
            self._received = self._received[size:]
            self._transport.write(_ANSWER)


def request_bytes(received: bytes) -> int | None:
    """How long the request is that begins here, by its Content-Length; None while its head is not complete."""
    head, end, _ = received.partition(b"\r\n\r\n")
    if not end:
        return None
    _, _, length = head.lower().partition(b"\r\ncontent-length:")
    return len(head) + len(end) + int(length.partition(b"\r\n")[0] or 0)


async def serve(socket: str) -> None:
    """Serve on this unix socket until SIGTERM."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_unix_server(Instant, socket)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(sys.argv[sys.argv.index("--host") + 1]))
