"""The zygote: has every tool imported, and forks a worker whenever the service asks for one.

Run as ``python -I -S -B zygote.py FD`` with an empty environment; FD is its end of a packet socket. It was exec'd, not
forked from the service, so it holds nothing of the service's; it has one thread, so that a fork copies a whole process
and Landlock holds all of it. It opens no path that a tool names, and never reads a tool's arguments: those go straight
from the service to a worker that has confined itself. It alone buries its workers. Where it ends, they are killed.

Packets in: ``{"entries"}`` once, then ``{"id", "confinement", "degraded"}``. Out: ``{"ready": true}`` once; ``{"id",
"pid"}`` with a worker's channel and a descriptor of its process, or ``{"id", "why"}``; ``{"ended": id, "code"}``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

# -I and -S leave only the standard library on the path; AirLab comes last, so that no file beside it hides a module.
sys.path.append(__file__.rsplit("/", 4)[0])

from app.tools.base import Confinement, Tool, load
from app.tools.worker import entry, kernel, lockdown

_PACKET_BYTES = 256 * 1024
_OPEN_FILES = 1024
_BURY_MS = 50
_IMPORTED_LATE = (
    *("encodings.idna", "encodings.utf_8_sig", "stringprep", "unicodedata"),
    *("importlib.resources", "linecache", "app.tools.worker.trust"),
)
"""What is imported only once it is needed: behind the wall it could not be."""


class Zygote:
    """The loop: one order at a time, one burial at a time."""

    def __init__(self, control: socket.socket, tools: Mapping[str, Tool[..., object]]) -> None:
        """Take the service's end for orders."""
        self._control = control
        self._tools = tools
        self._workers: dict[int, tuple[int, int]] = {}
        """The process id and the order of each worker, by the descriptor of its process."""
        self._groups: set[int] = set()
        """Of buried workers, where something that they started may not be buried yet."""
        self._events = select.poll()
        self._events.register(control, select.POLLIN)
        self._nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def serve(self) -> None:
        """Until the service closes its end, by intent or by death."""
        while True:
            for descriptor, _ in self._events.poll(_BURY_MS if self._groups else None):
                if descriptor in self._workers:
                    self._bury(descriptor)
                elif not self._take_order():
                    return
            self._groups = {group for group in self._groups if not _bury_group(group)}

    def _take_order(self) -> bool:
        packet = self._control.recv(_PACKET_BYTES)
        if not packet:
            return False
        order = json.loads(packet)
        try:
            self._fork(order, _confinement(json.dumps(order["confinement"])))
        except OSError as exc:
            self._say({"id": order["id"], "why": f"no tool worker can be forked: {exc.strerror}"})
        return True

    def _fork(self, order: dict[str, Any], confinement: Confinement) -> None:
        theirs, ours = socket.socketpair()
        with theirs, ours:
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                self._become_worker(confinement, ours.fileno(), parent, degraded=order["degraded"])
            try:
                watch = os.pidfd_open(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            self._workers[watch] = (pid, order["id"])
            self._events.register(watch, select.POLLIN)
            self._say({"id": order["id"], "pid": pid}, theirs.fileno(), watch)

    def _become_worker(self, confinement: Confinement, channel: int, parent: int, *, degraded: bool) -> None:
        """In the child; does not come back."""
        code = 1
        try:
            _tie(confinement, parent)
            os.dup2(channel, 0)
            os.dup2(self._nothing, 1)
            os.dup2(self._nothing, 2)
            os.closerange(3, _OPEN_FILES)
            entry.serve_one(confinement, self._tools, degraded=degraded)
            code = 0
        finally:
            os._exit(code)

    def _bury(self, watch: int) -> None:
        pid, order = self._workers.pop(watch)
        # A worker leads a group that nothing in it can leave. As long as it is not buried, its number is nobody else's.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self._groups.add(pid)
        self._events.unregister(watch)
        os.close(watch)
        self._say({"ended": order, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, packet: dict[str, Any], *descriptors: int) -> None:
        socket.send_fds(self._control, [json.dumps(packet).encode()], descriptors)


@lru_cache(maxsize=64)
def _confinement(text: str) -> Confinement:
    """Read once: the same few are ordered again and again, and a worker should find everything done."""
    return Confinement.from_json(json.loads(text))


def _bury_group(group: int) -> bool:
    """True when nothing of it is left. What a worker started is ours when the worker is gone; it was killed with it."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _tie(confinement: Confinement, parent: int) -> None:
    """Lead a group of our own, and end with the zygote."""
    os.setsid()
    ending = signal.SIGKILL
    if confinement.kind == "command":
        # What a program starts is not tied to anybody: the worker stays for a moment to take its group along.
        signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
        ending = signal.SIGTERM
    kernel.die_with_parent(ending)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """Import what tools need, say so, and fork."""
    # No descriptor has a number above this limit, so a worker knows all that it has to close.
    lockdown.lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    control = socket.socket(fileno=os.dup(int(sys.argv[1])))
    os.close(int(sys.argv[1]))
    if sys.platform == "linux":
        kernel.adopt_orphans()
    for module in _IMPORTED_LATE:
        importlib.import_module(module)
    tools = {name: load(name) for name in json.loads(control.recv(_PACKET_BYTES))["entries"]}
    entry.warm_up()
    # Workers share these pages for as long as nobody writes to them; a collection would.
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"ready": True}).encode())
    with suppress(BrokenPipeError, ConnectionResetError):  # the service is gone
        Zygote(control, tools).serve()


if __name__ == "__main__":
    main()
