"""llama-server in containers: created, looked over, started, and swept away where nobody owns them. Fulfils ``Engine``.

What a container may do is decided in ``container.py``, and a started one is watched and stopped by
``docker_running.py``; here is only how one comes to be. Nothing half-made stays: a container that cannot be started is
removed before the error is told, and none is removed by Docker itself, so that its exit code and its last words can be
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.devices.cpu import Node
from app.engines.base import Launch
from app.engines.command import as_written
from app.engines.container import (
    LABEL,
    NOBODY,
    SOCKET_INSIDE,
    Body,
    Image,
    Order,
    Where,
    body_of,
    differences,
    gpu_body,
    host_path,
    installation_of,
    order_of,
    section_of,
)
from app.engines.daemon import Daemon, TakenError
from app.engines.docker_running import LOG_LINES, DockerRunning, remove_folder
from app.engines.placement import place
from app.errors import EngineError, GpuUnavailableError, ImageMissingError

log = logging.getLogger("airlab")

_SOCKET_BYTES = 100
"""Below the kernel's 107 for the path of a unix socket."""
_GPUS_S = 10.0
"""A driver that nobody used for a while takes seconds to wake up."""


class DockerEngine:
    """Runs llama-server in containers of this host's Docker."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        user: str | None = None,
        nodes: Callable[[], Sequence[Node]] = tuple,
        shared: bool = False,
        within: Sequence[Path] | None = None,
    ) -> None:
        """Nothing runs yet, and Docker is not asked yet.

        Args:
            folder: Where the containers' sockets go; only this installation uses it.
            environment: May say where Docker is.
            user: Whom a container runs as, as uid:gid: whoever is to connect to its socket. Where None, as we do, or
                as nobody where we are root, who can connect to anybody's.
            nodes: The host's NUMA nodes.
            shared: Others may look into ``folder``: it is the way to what this process starts for them.
            within: Where the files of models must lie, links followed, if others may write there; else anywhere.
        """
        self.folder = folder
        self.daemon = Daemon(environment)
        self.user = user or own_user()
        self.nodes, self._shared, self._within = nodes, shared, within
        self._swept, self._sweeping = False, asyncio.Lock()
        self._left: set[str] = set()
        """Names of containers that may exist half made, since Docker went away while they were."""

    async def start(self, launch: Launch) -> DockerRunning:
        """Create the container, look it over, start it. Raises EngineError; then nothing of it is left."""
        async with self._sweeping:
            if not self._swept:  # Docker was away when this process started
                await self._sweep()
        await self._remove_left()
        order, socket = await self._order(launch)
        starting = asyncio.create_task(self._start(order, socket))
        try:
            running = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Begun is begun: without an owner it ends as soon as it exists.
            asyncio.create_task(_end_unowned(starting)).add_done_callback(lambda _: None)
            raise
        return running

    async def order_for(self, launch: Launch, *, instance: str) -> Order:
        """What would be started now. Raises EngineError, also where its fit is beyond what the manifest gives."""
        run, section = launch.run, section_of(launch.run)
        placement = place(section, launch.fit or as_written(run), self.nodes())
        mounts = await self.daemon.own_mounts()
        image = await self._image(section.image)
        user = self.user if mounts is not None else user_for(self.user, await self.daemon.security())
        where = Where(self.folder, mounts, user, self._within)
        return order_of(launch.key, run, instance, where=where, image=image, placement=placement, fit=launch.fit)

    async def nvidia_smi(self, images: Sequence[str]) -> str:
        """What ``nvidia-smi`` says in a container of the first of these images that is here.

        Raises:
            EngineError: None of them is here, or Docker can hand no GPU on.
        """
        image = await self._first_of(images)
        installation = installation_of(host_path(self.folder, await self.daemon.own_mounts()))
        name = f"airlab-{installation[:8]}-gpus"
        container = await self._make(gpu_body(image, self.user, installation), name)
        try:
            async with asyncio.timeout(_GPUS_S):
                while not await self.daemon.wait(container):
                    pass
            return "\n".join(await self.daemon.last_lines(container, LOG_LINES))
        except TimeoutError as exc:
            raise GpuUnavailableError(f"nvidia-smi did not end within {_GPUS_S:g} s in a container") from exc
        finally:
            await self._remove_half_made(container, name)

    async def sweep(self) -> None:
        """Remove every container of this installation, and its sockets; before the first start at the latest.

        Raises:
            EngineAwayError: Docker does not answer.
        """
        async with self._sweeping:
            # Without that folder there never was one, and Docker need not be asked: most hosts have none.
            if self._shared or self.folder.exists():
                await self._sweep()
            self._swept = True

    async def _sweep(self) -> None:
        installation = installation_of(host_path(self.folder, await self.daemon.own_mounts()))
        left = await self.daemon.containers(f"{LABEL}.installation={installation}")
        for container in left:
            log.info("removing the container %s, which a predecessor left", container["Id"][:12])
            await self.daemon.remove(container["Id"])
        for folder in filter(Path.is_dir, self.folder.glob("*-*")):
            await asyncio.to_thread(remove_folder, folder / SOCKET_INSIDE.name)
        self._swept = True

    def close(self) -> None:
        """Let its threads end, and leave no folder behind that is empty."""
        self.daemon.close()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    async def _order(self, launch: Launch) -> tuple[Order, Path]:
        instance = launch.socket.stem
        socket = self.folder / instance / SOCKET_INSIDE.name
        if len(str(socket).encode()) > _SOCKET_BYTES:
            raise EngineError(f"the socket path {socket} is longer than {_SOCKET_BYTES} bytes; use a shorter TMPDIR")
        return await self.order_for(launch, instance=instance), socket

    async def _first_of(self, images: Sequence[str]) -> Image:
        missing: EngineError = ImageMissingError("the manifest names no image for GPUs")
        for image in images:
            try:
                return await self._image(image)
            except ImageMissingError as exc:
                missing = exc
        raise missing

    async def _image(self, image: str) -> Image:
        try:
            return await self.daemon.image(image)
        except ImageMissingError as exc:
            what = "no image of that digest is" if "@sha256:" in image else "it is not"
            raise ImageMissingError(
                f"the image {image} cannot be used: {what} on this machine, and AirLab pulls none; build it "
                "(airlab:cuda: `docker compose build cuda`, airlab:cpu: `docker compose build airlab`), pull it, or "
                "name another as `image`"
            ) from exc

    async def _start(self, order: Order, socket: Path) -> DockerRunning:
        self._make_folder(socket.parent)
        try:
            container = await self._make(body_of(order), order.name)
        except BaseException:
            await asyncio.to_thread(remove_folder, socket)
            raise
        return DockerRunning(self.daemon, container, socket, order)

    async def _make(self, body: Body, name: str) -> str:
        """A started container; one that cannot be started, or is not as it should be, is removed."""
        container: str | None = None
        try:
            container = await self.daemon.create(body, name)
            holes = differences(body, await self.daemon.inspect(container))
            if holes:
                raise EngineError(f"Docker made a container that is not walled in as asked ({', '.join(holes)})")  # noqa: TRY301
            await self.daemon.start(container)
        except TakenError:
            raise
        except BaseException:
            await self._remove_half_made(container, name)
            raise
        return container

    async def _remove_half_made(self, container: str | None, name: str) -> None:
        """A daemon that answers too late may have made it all the same: then only its name is known."""
        self._left.add(name)
        try:
            await self.daemon.remove(container or name)
        except EngineError as exc:
            log.warning("the container %s may be left, half made: %s; the next start removes it", name, exc.message)
        else:
            # Without an id, Docker did not answer while it made it, and may still be about to.
            self._left -= {name} if container else set()

    async def _remove_left(self) -> None:
        for name in tuple(self._left):
            await self.daemon.remove(name)
            self._left.discard(name)

    def _make_folder(self, folder: Path) -> None:
        """The one folder that a container may write to; whoever it runs as must be able to.

        Its parent says who on this host may come here: we alone, or those too who share it with us, read-only.
        """
        try:
            self.folder.mkdir(mode=0o755 if self._shared else 0o700, parents=True, exist_ok=True)
            if self.folder.is_symlink() or self.folder.stat().st_uid != os.getuid():
                raise EngineError(f"{self.folder} belongs to somebody else; remove it, or use another TMPDIR")
            with contextlib.suppress(FileNotFoundError):
                (folder / SOCKET_INSIDE.name).unlink()
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)
        except OSError as exc:
            raise EngineError(f"cannot make {folder} for a container's socket: {exc.strerror}") from exc


def user_for(user: str, security: frozenset[str]) -> str:
    """Whom a container runs as, so that we, outside of any, can connect to its socket.

    Raises:
        EngineError: The daemon gives containers users of which none is us.
    """
    if "rootless" in security:
        return "0:0"  # who is root in there is, to this host, whoever runs the daemon
    if "userns" in security and user != NOBODY:
        raise EngineError(
            "this Docker gives containers users of their own (userns-remap), whose sockets AirLab may not use from "
            "outside; run AirLab in a container as well, or use rootless Docker"
        )
    return user


def own_user() -> str:
    """Whom a container runs as whose socket we are to connect to."""
    return NOBODY if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"


async def _end_unowned(starting: asyncio.Task[DockerRunning]) -> None:
    try:
        running = await starting
    except EngineError:
        return
    await running.stop(grace_s=0)
