"""Listens while there is no manifest that could be served, and ends as soon as there is one."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.api.auth import Auth
from app.api.guard import EdgePolicy, Guard
from app.api.protocol import uvicorn_options
from app.api.waiting import WaitingRoom
from app.errors import ManifestError, SettingsError
from app.journal import Journal
from app.manifest.load import parse_manifest
from app.manifest.settle import Quiet, read_settled, stamp_of
from app.manifest.watch import Look, Watcher, folders_of
from app.service import Service
from app.settings import Settings

log = logging.getLogger("airlab")


def wait_for_manifest(
    settings: Settings, trouble: ManifestError, listener: socket.socket, announce: Callable[[], None]
) -> Service | None:
    """The service of the manifest, once that is right; None when a signal came first.

    Args:
        settings: Say where the manifest is to be.
        trouble: What is wrong with it, for whoever asks meanwhile.
        listener: Stays open.
        announce: Says where it serves, once it answers and minds signals.
    """
    server = _Waiting(settings, trouble, announce)
    log.warning("airlab.yaml cannot be used, and none was in force here before; waiting for it\n%s", trouble.message)
    with listener.dup() as own:
        server.run(sockets=[own])
    return server.service


class _Waiting(uvicorn.Server):
    """uvicorn with the waiting room, watching the file."""

    def __init__(self, settings: Settings, trouble: ManifestError, announce: Callable[[], None]) -> None:
        self.service: Service | None = None
        self._settings, self._announce = settings, announce
        self._room = WaitingRoom(Auth(settings), trouble)
        app = Guard(self._room, EdgePolicy())
        super().__init__(uvicorn.Config(app, lifespan="off", log_config=None, log_level="warning", **uvicorn_options()))

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the file is right, or a signal."""
        watching = asyncio.create_task(self._watch())
        try:
            await super().serve(sockets)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve, then say where."""
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; unlike uvicorn's own, without raising the signal once more afterwards."""
        self.should_exit = True

    async def _watch(self) -> None:
        file, changed = self._settings.manifest, asyncio.Event()
        watcher = Watcher(lambda: Look(stamp_of(file), None), lambda: folders_of(file), changed.set, Journal())
        await watcher.start()
        stamp = None
        try:
            while self.service is None:
                try:
                    data, stamp = await read_settled(file, stamp, Quiet())
                    self.service = Service(self._settings, parse_manifest(data, name=str(file)))
                except (ManifestError, SettingsError) as exc:  # the file is wrong, or does not fit this host
                    self._room.trouble = exc
                    await changed.wait()
                    changed.clear()
        finally:
            await watcher.close()
        self.should_exit = True
