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

from tests.support.docker import IMAGE
from tests.support.service import ROOT, wait_until

BOUND_S = 90.0
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:rw,noexec,mode=1777")
"""What compose.yaml asks for, too."""
ROOM = ("--volume=/models", "--volume=/state", "--volume=/workspace")
"""Volumes that go with their container."""
_PYTHON = ("/app/.venv/bin/python", "-c")
_AIRLABS = (
    "import psutil; print(*(p.pid for p in psutil.process_iter(['cmdline']) if '-P' in (p.info['cmdline'] or ())))"
)
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


def kill(name: str) -> None:
    """kill -9 of what the container runs, from inside: unlike `docker kill`, Docker's restart policy calls it a crash.

    Returns when Docker has started it anew.
    """
    begun = inspect(name)["State"]["StartedAt"]
    pid = docker("exec", "--user=10001", name, *_PYTHON, _AIRLABS).split()[0]
    # The exec dies with the container that it kills.
    docker("exec", "--user=10001", name, "sh", "-c", f"kill -9 {pid}", code=None)
    wait_until(
        lambda: (state := inspect(name)["State"])["Running"] and state["StartedAt"] != begun,
        "Docker starts it anew",
        bound_s=BOUND_S,
        every_s=0.1,
    )


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

    def until_healthy(self, service: str = "airlab") -> None:
        """Wait until the daemon calls a service healthy."""
        is_healthy = "healthy"
        wait_until(
            lambda: inspect(self.container(service))["State"].get("Health", {}).get("Status") == is_healthy,
            f"{service} is healthy",
            bound_s=BOUND_S,
            every_s=0.1,
        )

    def left(self) -> list[str]:
        """What there is of it in Docker."""
        label = f"label=com.docker.compose.project={self.name}"
        asked = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [line for what in asked for line in docker(*what, "--quiet", "--filter", label).splitlines()]


@contextmanager
def project(manifest: str | None = None, **environment: str) -> Iterator[Project]:
    """Our compose.yaml, up and healthy, on this manifest or the shipped one; down, with nothing left, at the end."""
    config = Path(tempfile.mkdtemp(prefix="airlab-test-"))
    made = Project(config, environment)
    try:
        config.chmod(0o755)
        (config / "airlab.yaml").write_text(manifest or (ROOT / "airlab.yaml").read_text())
        made.compose("up", "--detach", "--no-build", "--wait")
        yield made
    except BaseException as exc:
        exc.add_note(made.compose("logs", "--no-color", "--tail", "60", code=None))
        raise
    finally:
        made.compose("down", "--volumes", "--timeout", "30")
        shutil.rmtree(config)
        assert not made.left()
