"""``airlab serve``: runs the application in the foreground, and stops it in order."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import socket
from types import FrameType

import uvicorn

from app.api.protocol import uvicorn_options
from app.asgi import build_app
from app.cli.main import DONE, FAILED
from app.cli.waiting import wait_for_manifest
from app.errors import ManifestError, SettingsError
from app.live.lastgood import read_last_good
from app.manifest.load import read_manifest
from app.manifest.schema import ServerSection
from app.service import Service, require_keys_for, server_section
from app.settings import Settings, read_settings

_CUT_S = 5
"""After everything was drained, connections that still hang are cut after this."""


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal or /shutdown; 0 when everything was stopped and nothing is left."""
    settings = read_settings(host=options.host, port=options.port, profile=options.profile)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("httpx", "httpx2", "mcp", "watchfiles"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    service, trouble = _first_service(settings)
    if trouble is not None and options.strict:
        raise trouble
    where = service.server if service else server_section(settings, ServerSection())
    require_keys_for(where.host, settings)
    with _listen(where.host, where.port) as listener:
        if service is None and trouble is not None:
            service = wait_for_manifest(settings, trouble, listener, lambda: _announce(listener))
        return DONE if service is None else _serve(service, listener)


def _first_service(settings: Settings) -> tuple[Service | None, ManifestError | None]:
    """The service of the manifest, or of the one last in force here; with what is wrong with the manifest, if so."""
    try:
        return Service(settings, read_manifest(settings.manifest)), None
    except ManifestError as exc:
        last = read_last_good(settings)
        return None if last is None else Service(settings, last, trouble=exc), exc


def _serve(service: Service, listener: socket.socket) -> int:
    config = uvicorn.Config(
        build_app(service),
        lifespan="off",
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=_CUT_S,
        **uvicorn_options(),
    )
    server = Server(config, service, listener)
    server.run(sockets=[listener])
    return DONE if server.clean else FAILED


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    # Printed and not logged: it is the answer to the command, whatever the log level.
    print(f"AirLab serves on {url}", flush=True)


class Server(uvicorn.Server):
    """uvicorn that drains before it stops: at the first signal, or /shutdown; a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service, listener: socket.socket) -> None:
        """Serve ``service`` on ``listener``."""
        super().__init__(config)
        self.clean = True
        self._service = service
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        service.request_exit = self.begin_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the service, then serve; say where, once it does. Raises what ``Service.start`` does."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._service.reload.wake)
        try:
            await self._service.start()
        except BaseException:
            await self._service.stop(drain_s=0)
            raise
        await super().startup(sockets)
        # What was made for the start stays: looking through it for garbage again and again would hold up every
        # stream for 60 ms each time.
        gc.freeze()
        _announce(self._listener)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first drains, a second ends it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.begin_exit)
        else:
            self.should_exit = True

    def begin_exit(self) -> None:
        """Drain and stop; asked a second time, stop without draining."""
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        else:
            self._service.hurry()

    async def _drain(self) -> None:
        self.clean = False
        try:
            self.clean = await self._service.stop()
        finally:
            # Whatever failed while it stopped: a service that stops is not to stay.
            self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket, made before anything starts: a port in use is known at once."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as exc:
        raise SettingsError(f"server.host: {host} is no address of this machine: {exc}") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as exc:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {exc.strerror}; if another AirLab runs there, stop it, else set "
            "AIRLAB_PORT or server.port to a free one"
        ) from exc
    return listener
