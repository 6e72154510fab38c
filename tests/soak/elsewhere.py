"""A server elsewhere, for a soak: the scripted llama-server on a port, behind a toxic proxy; it dies and comes back."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.support.fake import fake_llama_server_command, write_fault
from tests.support.ports import held_port
from tests.support.toxic import Toxic, toxic_proxy

MODEL = "far"
TOXICS = (
    *(Toxic(), Toxic(), Toxic(), Toxic(slices=True), Toxic(latency_s=0.2)),
    *(
        Toxic(ends_after_bytes=size, how=how, freeze_s=3.0)
        for size in (0, 60, 700)
        for how in ("end", "reset", "freeze")
    ),
)
"""What is frozen ends after three seconds by itself, which is after AirLab's patience in the middle of an answer."""
_HOST = "127.0.0.1"


class Elsewhere:
    """A server with one model, and the port under which AirLab knows it."""

    def __init__(self, folder: Path, listener: socket.socket, port: int) -> None:
        """Use ``elsewhere``."""
        self.url = f"http://{_HOST}:{listener.getsockname()[1]}/v1"
        self.is_toxic = True
        """Whether the proxy harms what passes."""
        self._model = folder / f"{MODEL}.gguf"
        self._model.write_bytes(b"GGUF")
        self._command = fake_llama_server_command(folder)
        self._listener = listener
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, fault: Mapping[str, object]) -> None:
        """Kill it, if it lives, and start it with this script."""
        self.end()
        write_fault(self._model, **fault)
        given = ["--model", str(self._model), "--host", _HOST, "--port", str(self._port), "--alias", MODEL]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([str(self._command), *given], stdin=quiet, stdout=quiet, stderr=quiet)

    def end(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @asynccontextmanager
    async def reachable(self, chance: random.Random) -> AsyncIterator[None]:
        """Have the proxy pass on what comes to its port."""
        # A copy: the loop that serves on it closes it at its end, and AirLab keeps the port.
        listener = self._listener.dup()
        async with toxic_proxy(
            lambda: asyncio.open_connection(_HOST, self._port),
            lambda accept: asyncio.start_server(accept, sock=listener),
            lambda: chance.choice(TOXICS) if self.is_toxic else Toxic(),
        ):
            yield


@contextmanager
def elsewhere(folder: Path) -> Iterator[Elsewhere]:
    """A server in this folder; it is gone when the block ends."""
    with socket.create_server((_HOST, 0)) as listener, held_port() as port:
        server = Elsewhere(folder, listener, port)
        try:
            server.start({})
            yield server
        finally:
            server.end()
