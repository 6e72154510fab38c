"""From a command line to a fake llama-server that has ended: arguments, script, socket, loading, signals, exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.fake_llama.completions import crash, wait_for_file
from tests.fake_llama.options import Options, read_options
from tests.fake_llama.script import Script, grandchildren_file, read_script
from tests.fake_llama.server import FakeServer
from tests.fake_llama.wire import Connection

PROGRESS_INTERVAL_S = 0.2
PROGRESS_CPU_S = 0.03  # three of the kernel's ticks: enough to be seen in /proc/PID/stat
GRANDCHILD_LIFE_S = 60


def main(argv: Sequence[str]) -> int:
    """Run until told to stop; the exit code is llama-server's."""
    if "--version" in argv:
        _log("version: 0.0.0-fake (build 0, commit unknown)")
        return 0
    options = read_options(argv)
    if not options.model.is_file():
        _log(f"E srv    load_model: failed to load model, '{options.model}'")
        return 1
    script, start = read_script(options.model)
    if script.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if script.fork_setsid_grandchild:
        _fork_grandchild(options)
    if script.exit_code is not None and script.exit_at == "start":
        crash(script)
    try:
        listener = _bind(options)
    except OSError:
        # Also for the socket file of a dead server, which the real one does not clear either.
        _log(f"E srv         start: couldn't bind HTTP server socket, hostname: {options.host}, port: {options.port}")
        return 1
    asyncio.run(_run(FakeServer(options, script, start=start), script, listener))
    return 0


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fork_grandchild(options: Options) -> None:
    """Leave a process behind that no group kill reaches, and that keeps our stdout open."""
    grandchild = subprocess.Popen(["sleep", str(GRANDCHILD_LIFE_S)], start_new_session=True)
    with grandchildren_file(options.model).open("a") as file:
        file.write(f"{grandchild.pid}\n")


def _bind(options: Options) -> socket.socket:
    if options.host.endswith(".sock"):
        listener = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = options.host
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = (options.host, options.port)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


async def _run(server: FakeServer, script: Script, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, told.set)
    if not script.ignore_sigterm:
        loop.add_signal_handler(signal.SIGTERM, told.set)
    # A socket of our own making: asyncio would clear a stale file first, and its own at the end. The real one does not.
    listening = await loop.create_server(lambda: Connection(server.serve), sock=listener, backlog=512)
    loading = asyncio.create_task(_load(server, script))
    await told.wait()
    _log("I srv    operator(): operator(): cleaning up before exit...")
    loading.cancel()
    listening.close()
    await server.stop()


async def _load(server: FakeServer, script: Script) -> None:
    _log("I srv    load_model: loading model")
    progress = asyncio.create_task(_make_progress()) if script.progress else None
    if script.load_forever:
        await asyncio.Event().wait()
    elif script.load_until_file:
        await wait_for_file(script.load_until_file)
    else:
        await asyncio.sleep(script.load_s)
    if progress:
        progress.cancel()
    if script.exit_at == "load":
        crash(script)
    server.loaded = True
    _log("I srv  llama_server: model loaded")
    if script.die_after_s is not None:
        await asyncio.sleep(script.die_after_s)
        os.kill(os.getpid(), signal.SIGKILL)


async def _make_progress() -> None:
    while True:
        until_s = time.process_time() + PROGRESS_CPU_S
        while time.process_time() < until_s:
            pass
        _log("I load_tensors: loading more of the model")
        await asyncio.sleep(PROGRESS_INTERVAL_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
