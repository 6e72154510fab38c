"""What a worker gives up on its own while it works: the network once it is connected, programs but its own."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.tools.base import Confinement
from app.tools.toolbox import Toolbox
from app.tools.worker import landlock
from tests.tools.shed import CANARIES, run, within


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The port of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(16))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_fault_072_connected_worker_gets_nothing_else(toolbox: Toolbox) -> None:
    """What the other side says is read by a process that can reach nobody but the other side, and no file."""
    async with echoing() as port:
        said = await run(toolbox, CANARIES["connect"], Confinement("net", ports=(port,)), port=port)

    # Then: another connection, another socket, a file of the resolver, TCP Fast Open.
    assert said == "hello EPERM EPERM EACCES EPERM"


async def test_only_the_policys_ports_are_connected_to(toolbox: Toolbox) -> None:
    """The kernel knows them, too, whatever a tool makes of what a model wrote."""
    if landlock.version() < 4:
        pytest.skip("this kernel cannot hold ports (Linux 6.7 can)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = await run(toolbox, CANARIES["connect"], Confinement("net", ports=(80, 443)), port=port)

    assert said == "EACCES"


async def test_names_are_resolved_behind_the_wall(toolbox: Toolbox) -> None:
    """The C library opens its files and may load its parts only now: all it needs is there."""
    found = await run(toolbox, CANARIES["resolve"], Confinement("net"), name="localhost")

    assert isinstance(found, list)
    assert {"127.0.0.1", "::1"} & set(found)


async def test_program_that_was_named_runs_and_no_other(toolbox: Toolbox, tmp_path: object) -> None:
    program, other = shutil.which("true"), shutil.which("false")
    said = await run(toolbox, CANARIES["run_only"], within("command", tmp_path), program=program, other=other)

    assert said == ["0", "EACCES"]
