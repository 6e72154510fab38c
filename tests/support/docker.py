"""Hands tests a Docker engine, images, and a way to it that breaks as told; what they made is gone when they end."""

from __future__ import annotations

import functools
import gc
import io
import os
import select
import shutil
import socket
import tarfile
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import docker
import docker.errors
import pytest

from app.devices.dockerd import ask_docker, docker_socket

IMAGE = os.environ.get("AIRLAB_TEST_IMAGE", "airlab:cpu")
LABEL = "dev.airlab.installation"
BOUND_S = 30


def require_docker() -> None:
    """Leave the test out where there is no Docker engine or no image to run; fail it where there should be one."""
    trouble = _trouble()
    if trouble is None:
        return
    text = f"{trouble}, so the tests that start containers are left out"
    if os.environ.get("AIRLAB_TEST_REQUIRE_DOCKER") == "1":
        pytest.fail(text)
    pytest.skip(text)


@functools.cache
def _trouble() -> str | None:
    place = docker_socket(os.environ)
    # Asked so first: docker's own library leaves sockets open that it could not connect.
    if place is not None and (told := ask_docker(place)).version is None:
        return f"Docker {told.why_not}"
    try:
        with closing(docker.APIClient(version="auto", timeout=BOUND_S)) as api:
            api.inspect_image(IMAGE)
    except docker.errors.ImageNotFound:
        return f"Docker has no image {IMAGE} (AIRLAB_TEST_IMAGE)"
    except docker.errors.DockerException as exc:
        return f"Docker does not answer ({str(exc)[:100]})"
    return None


@contextmanager
def docker_api() -> Iterator[Any]:
    """A client of the engine."""
    with closing(docker.APIClient(version="auto", timeout=BOUND_S)) as api:
        yield api


@contextmanager
def derived_image(program: str, name: str) -> Iterator[str]:
    """An image whose ``llama-server`` is this Python program; its id. It goes with the block."""
    files = {
        "Dockerfile": f"FROM {IMAGE}\nUSER 0\nCOPY --chown=0:0 llama-server /put-first/llama-server\n"
        "ENV PATH=/put-first:/usr/local/bin:/usr/bin:/bin\n",
        "llama-server": f"#!/usr/bin/env python3\n{program}",
    }
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    context.seek(0)
    tag = f"airlab-test-{name}:{os.getpid()}"
    with docker_api() as api:
        said = list(api.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, decode=True))
        assert not [line for line in said if "error" in line], said
        try:
            yield str(api.inspect_image(tag)["Id"])
        finally:
            api.remove_image(tag, force=True)


def containers_below(folder: Path) -> list[dict[str, Any]]:
    """Every container of an AirLab that was given a path of this folder."""
    with docker_api() as api:
        found = api.containers(all=True, filters={"label": LABEL})
        return [each for each in found if any(_is_below(mount["Source"], folder) for mount in each["Mounts"])]


def _is_below(path: str, folder: Path) -> bool:
    return Path(path).is_relative_to(folder)


def remove_containers_below(folder: Path) -> list[str]:
    """Remove what a test left; the names, for it to fail with."""
    left = containers_below(folder)
    with docker_api() as api:
        for each in left:
            with suppress(docker.errors.NotFound):
                api.remove_container(each["Id"], force=True, v=True)
    return [f"{each['Names']} {each['State']}" for each in left]


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path, and no container that was given a part of it, when the block has ended."""
    folder = Path(tempfile.mkdtemp(prefix="airlab-test-")).resolve()
    # Whoever a container runs as must get to its model, as through any folder of a user's.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        left = remove_containers_below(folder)
        shutil.rmtree(folder)
    assert not left, f"containers were left: {left}"


class Way:
    """A unix socket in front of the Docker engine's: it passes on, takes and says nothing, or is not there."""

    def __init__(self, place: Path) -> None:
        """Passes on."""
        self.place = place
        self._mode: Literal["passes", "hangs", "gone"] = "passes"
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = self._listen()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a client go this way."""
        return {"DOCKER_HOST": f"unix://{self.place}"}

    def hang(self) -> None:
        """From now on, connections are taken and nothing is passed on; those that are open break."""
        self._mode = "hangs"
        self._break()

    def vanish(self) -> None:
        """As a daemon that ended: no socket, and every connection broken."""
        self._mode = "gone"  # also for who was taken at this moment, and is not among the open ones yet
        self._listener.close()
        self.place.unlink(missing_ok=True)
        self._break()

    def come_back(self) -> None:
        """As it was."""
        self._mode = "passes"
        self._break()
        if self._listener.fileno() < 0:
            self._listener = self._listen()

    def close(self) -> None:
        """End all of it."""
        self.vanish()
        for thread in self._threads:
            thread.join(BOUND_S)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.place))
        listener.listen(64)
        listener.settimeout(0.1)
        self._start(self._accept, listener)
        return listener

    def _start(self, does: Any, *given: Any) -> None:
        thread = threading.Thread(target=does, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while listener.fileno() >= 0:
            with suppress(TimeoutError, OSError):
                client, _ = listener.accept()
                client.settimeout(None)
                self._open.add(client)
                self._start(self._pass_on, client)

    def _pass_on(self, client: socket.socket) -> None:
        mode = self._mode
        with ExitStack() as stack:
            stack.callback(self._open.discard, client)
            stack.enter_context(client)
            if mode == "gone":
                return
            engine = stack.enter_context(socket.socket(socket.AF_UNIX))
            other = {client: engine, engine: client}
            with suppress(OSError, ValueError):
                engine.connect(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
                while True:
                    ready, _, _ = select.select([client, engine], [], [], BOUND_S)
                    for end in ready:
                        data = end.recv(65536)
                        if not data:
                            return
                        if mode == "passes":
                            other[end].sendall(data)

    def _break(self) -> None:
        for client in tuple(self._open):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def collect_broken_connections() -> None:
    """Of connections that broke while it made them, docker's library leaves the sockets to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def way_to_docker(folder: Path) -> Iterator[Way]:
    """A way that breaks as told."""
    with closing(Way(folder / "docker.sock")) as way:
        yield way
    collect_broken_connections()
