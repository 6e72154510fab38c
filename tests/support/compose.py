"""Runs the project's compose.yaml, and single containers of its image, under names of a test's own; leaves nothing.

Knows ``docker`` and nothing of AirLab's answers. Everything that it makes carries the name of its project.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import ROOT, wait_until

IMAGE = os.environ.get("AIRLAB_TEST_IMAGE", "airlab-test:cpu")
BOUND_S = 90.0
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:rw,noexec,mode=1777")
"""What compose.yaml asks for, too."""
ROOM = ("--volume=/models", "--volume=/state", "--volume=/workspace")
"""Volumes that go with their container."""
_NOBODY_ELSE = {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/")}


def docker(
    *arguments: str, bound_s: float = BOUND_S, code: int | None = 0, environment: Mapping[str, str] | None = None
) -> str:
    """What ``docker`` prints; fails when it ends with another exit code (None: whichever)."""
    told = _NOBODY_ELSE | {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    done = subprocess.run(
        ["docker", *arguments],
        env=told | dict(environment or {}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=bound_s,
        check=False,
    )
    assert code is None or done.returncode == code, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stderr}"
    return done.stdout.strip() or done.stderr.strip()


def require_docker() -> None:
    """Leave the test out where there is no Docker, or no image to test; fail it where both should be there."""
    why = None
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        why = "no Docker engine answers, so the tests of images and compose.yaml are left out"
    elif subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        why = f"there is no image {IMAGE}, so the tests of images and compose.yaml are left out: make test-docker"
    if why and os.environ.get("AIRLAB_TEST_REQUIRE_DOCKER") == "1":
        pytest.fail(why)
    if why:
        pytest.skip(why)


def inspect(container: str) -> dict[str, Any]:
    """All that the daemon knows of a container."""
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


@contextmanager
def container(*arguments: str) -> Iterator[str]:
    """A container that runs in the background, ``docker run ARGUMENTS``; removed at the end of the block."""
    name = f"airlab-test-{uuid.uuid4().hex[:12]}"
    try:
        docker("run", "--detach", "--name", name, *arguments)
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


@dataclass
class Project:
    """One ``docker compose`` project of our compose.yaml."""

    config: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"airlab-test-{uuid.uuid4().hex[:12]}")

    def compose(self, *arguments: str, code: int | None = 0) -> str:
        """``docker compose ARGUMENTS``, with nothing of the environment of whoever runs the tests."""
        told = {"AIRLAB_IMAGE": IMAGE, "AIRLAB_PORT": "0", "AIRLAB_CONFIG": str(self.config), **self.environment}
        return docker("compose", "--project-name", self.name, *arguments, code=code, environment=told)

    def container(self, service: str = "airlab") -> str:
        """The id of a service's container, running or not."""
        return self.compose("ps", "--all", "--quiet", service)

    @property
    def url(self) -> str:
        """Where it is published; another one after each restart, since the port is any free one."""
        return f"http://{self.compose('port', 'airlab', '8080')}"

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request to it."""
        return httpx.request(method, f"{self.url}{path}", timeout=BOUND_S, **more).raise_for_status()

    def until_healthy(self) -> None:
        """Wait until the daemon calls the service healthy."""
        is_healthy = "healthy"
        wait_until(
            lambda: inspect(self.container())["State"].get("Health", {}).get("Status") == is_healthy,
            "the service is healthy",
            bound_s=BOUND_S,
            every_s=0.1,
        )

    def left(self) -> list[str]:
        """What there is of it in Docker."""
        label = f"label=com.docker.compose.project={self.name}"
        asked = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [line for what in asked for line in docker(*what, "--quiet", "--filter", label).splitlines()]


@contextmanager
def project(*services: str, **environment: str) -> Iterator[Project]:
    """Our compose.yaml, up and healthy, on a copy of the shipped manifest; down, with nothing left, at the end."""
    config = Path(tempfile.mkdtemp(prefix="airlab-test-"))
    made = Project(config, environment)
    try:
        config.chmod(0o755)
        shutil.copy(ROOT / "airlab.yaml", config)
        made.compose("up", "--detach", "--no-build", "--no-deps", "--wait", *services)
        yield made
    except BaseException as exc:
        exc.add_note(made.compose("logs", "--no-color", "--tail", "60", code=None))
        raise
    finally:
        made.compose("down", "--volumes", "--timeout", "30")
        shutil.rmtree(config)
        assert not made.left()
