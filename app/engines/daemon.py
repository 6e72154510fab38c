"""Docker's daemon: asked in threads, bounded in time, its errors in our words. Knows no models.

The one user of docker's own library, which is imported at the first call: most hosts never need it.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from app.devices.dockerd import docker_socket
from app.engines.container import Image
from app.errors import EngineAwayError, EngineError, GpuUnavailableError, ImageMissingError

CALL_S = 10.0
"""One call to the daemon; a slow daemon is one that is away."""
_THREADS = 64
"""One waits for the end of each container; the rest are for short calls."""
_SELF = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")
_T = TypeVar("_T")


class GoneError(EngineError):
    """There is no container of that id."""


class TakenError(EngineError):
    """Another container has that name."""


class Daemon:
    """A client of the daemon. Every call may raise EngineAwayError, and EngineError for what the daemon refuses."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Nothing is connected yet; ``environment`` may say where the daemon is (DOCKER_HOST)."""
        self._environment = dict(environment)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._client: Any = None

    async def image(self, name: str) -> Image:
        """An image that is here. Raises ImageMissingError."""
        found = await self._call(lambda api: api.inspect_image(name))
        return Image(str(found["Id"]), tuple(sorted(found["Config"].get("Volumes") or ())))

    async def security(self) -> frozenset[str]:
        """How the daemon keeps containers apart, such as ``rootless`` or ``userns``."""
        options = (await self._call(lambda api: api.info())).get("SecurityOptions") or ()
        return frozenset(part.removeprefix("name=") for each in options for part in each.split(","))

    async def create(self, body: dict[str, Any], name: str) -> str:
        """Make a container, not started; its id. Raises TakenError."""
        return str((await self._call(lambda api: api.create_container_from_config(body, name)))["Id"])

    async def start(self, container: str) -> None:
        """Start it. Raises GpuUnavailableError."""
        await self._call(lambda api: api.start(container))

    async def inspect(self, container: str) -> dict[str, Any]:
        """What ``docker inspect`` says. Raises GoneError."""
        return dict(await self._call(lambda api: api.inspect_container(container)))

    async def wait(self, container: str) -> bool:
        """Wait a while for its end; True once it has ended. Raises GoneError."""
        try:
            await self._call(lambda api: api.wait(container, timeout=CALL_S))
        except _SlowError:
            return False
        return True

    async def kill(self, container: str, signal: str) -> None:
        """Send it a signal; nothing happens where it has ended. Raises GoneError."""
        try:
            await self._call(lambda api: api.kill(container, signal))
        except EngineError as exc:
            if "is not running" not in exc.message:
                raise

    async def remove(self, container: str) -> None:
        """Remove it, running or not; nothing happens where there is none."""
        try:
            await self._call(lambda api: api.remove_container(container, force=True, v=True))
        except GoneError:
            return
        except EngineError as exc:
            # Somebody else removes it already: whoever looks whether it is gone sees to the rest.
            if "already in progress" not in exc.message:
                raise

    async def containers(self, label: str) -> list[dict[str, Any]]:
        """Every container with this label (NAME=VALUE), running or not."""
        return list(await self._call(lambda api: api.containers(all=True, filters={"label": label})))

    async def last_lines(self, container: str, count: int) -> tuple[str, ...]:
        """The end of its log."""
        said: bytes = await self._call(lambda api: api.logs(container, tail=count))
        return tuple(line[:2048].decode(errors="replace").rstrip() for line in said.split(b"\n") if line)

    async def stats(self, container: str) -> dict[str, Any]:
        """Its processor time and memory, now."""
        return dict(await self._call(lambda api: api.stats(container, stream=False, one_shot=True)))

    async def own_mounts(self) -> list[dict[str, Any]] | None:
        """``Mounts`` of the container that this process runs in; None where it runs in none."""
        found = _SELF.search(_mountinfo())
        if found is None:
            return None
        return list((await self.inspect(found[1]))["Mounts"])

    def close(self) -> None:
        """Let its threads end; those that wait for a daemon do so within seconds."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    async def _call(self, ask: Callable[[Any], _T]) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(self._ask, ask))

    def _ask(self, ask: Callable[[Any], _T]) -> _T:
        """In a thread. The library's time-out holds from byte to byte, and what is asked here are small answers."""
        # At the first call: half of a service's start would go into it.
        import docker.errors  # noqa: PLC0415
        import requests  # noqa: PLC0415

        self._knock()
        try:
            return ask(self._connected())
        except docker.errors.ImageNotFound as exc:
            raise ImageMissingError(_said(exc)) from exc
        except docker.errors.NotFound as exc:
            raise GoneError(_said(exc)) from exc
        except docker.errors.APIError as exc:
            raise _refusal(_said(exc), exc.response.status_code if exc.response is not None else 500) from exc
        except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectTimeout) as exc:
            raise _SlowError(f"Docker did not answer within {CALL_S:g} s") from exc
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as exc:
            if "Read timed out" in str(exc):  # how urllib3 says it from within a body
                raise _SlowError(f"Docker did not answer within {CALL_S:g} s") from exc
            raise EngineAwayError(f"Docker broke off: {str(exc)[:300]}") from exc

    def _knock(self) -> None:
        """Whether anybody listens at all: the library leaves sockets open that it could not connect, and says less."""
        place = docker_socket(self._environment)
        if place is None:
            return
        try:
            with socket.socket(socket.AF_UNIX) as knocking:
                knocking.settimeout(CALL_S)
                knocking.connect(str(place))
        except PermissionError as exc:
            raise EngineAwayError(
                f"Docker's socket {place} may not be used by this user; add it to the group docker, or let a "
                "launcher do it (AIRLAB_LAUNCHER)"
            ) from exc
        except TimeoutError as exc:
            raise _SlowError(f"Docker did not answer within {CALL_S:g} s") from exc
        except OSError as exc:
            raise EngineAwayError(
                f"Docker does not run here: {place}: {exc.strerror}; if its socket is elsewhere, set DOCKER_HOST"
            ) from exc

    def _connected(self) -> Any:
        if self._client is None:
            import docker  # noqa: PLC0415
            import docker.utils  # noqa: PLC0415

            where = docker.utils.kwargs_from_env(environment=self._environment)
            self._client = docker.APIClient(version="auto", timeout=CALL_S, num_pools=_THREADS, **where)
        return self._client


class _SlowError(EngineAwayError):
    """The daemon took too long."""


def _said(exc: Any) -> str:
    return str(exc.explanation or exc)


def _refusal(said: str, status: int) -> EngineError:
    if "could not select device driver" in said or "nvidia-container-cli" in said or "nvidia-container-runtime" in said:
        return GpuUnavailableError(
            f"Docker cannot hand a GPU to a container ({said}); install the NVIDIA Container Toolkit, or take another "
            "profile"
        )
    if status == 409 and "is already in use" in said:
        return TakenError(f"Docker has another container of that name: {said}")
    return EngineError(f"Docker refused: {said}")


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
