"""``airlab serve``: runs the application in the foreground, and stops it in order."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
from types import FrameType

import uvicorn

from app.api.protocol import uvicorn_options
from app.asgi import build_app
from app.cli.main import DONE, FAILED
from app.errors import SettingsError
from app.manifest.load import read_manifest
from app.service import Service
from app.settings import read_settings

_CUT_S = 5
"""After everything was drained, connections that still hang are cut after this."""


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal or /shutdown; 0 when everything was stopped and nothing is left."""
    settings = read_settings(host=options.host, port=options.port, profile=options.profile)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    service = Service(settings, read_manifest(settings.manifest).manifest)
    with _listen(service.server.host, service.server.port) as listener:
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
        try:
            await self._service.start()
        except BaseException:
            await self._service.stop(drain_s=0)
            raise
        await super().startup(sockets)
        host, port = self._listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        # Printed and not logged: it is the answer to the command, whatever the log level.
        print(f"AirLab serves on {url}", flush=True)

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
