"""The image as such: the engine of a sibling, a folder that is empty, a kernel that cannot confine tools."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import BOUND_S, HARDENED, ROOM, container, docker, inspect
from tests.support.docker import IMAGE
from tests.support.service import ROOT, wait_until

pytestmark = pytest.mark.docker

_HEALTH = "import httpx; print(httpx.get('http://127.0.0.1:8080/{0}').text)"
_LANDLOCK = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
_ENOSYS = 38


def ask(name: str, path: str) -> Any:
    """What AirLab in a container without a network answers."""
    return json.loads(docker("exec", name, "/app/.venv/bin/python", "-c", _HEALTH.format(path)))


def until_healthy(name: str) -> None:
    """Wait until the image's own health check is content."""
    wait_until(lambda: inspect(name)["State"]["Health"]["Status"] == "healthy", f"{name} is healthy", bound_s=BOUND_S)


@pytest.mark.parametrize("image", [IMAGE, "airlab-test:cuda"])
def test_image_is_the_engine_of_a_sibling_under_another_entry_point(image: str) -> None:
    """As any user, without network, capabilities or a place to write."""
    if (
        image != IMAGE
        and subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"{image} was not built here")
    how = ("--rm", "--network=none", *HARDENED, "--user=65534:65534", "--entrypoint=llama-server", image)
    assert "Available devices" in docker("run", *how, "--list-devices")


def test_image_runs_as_nobody_special_and_is_labelled() -> None:
    [facts] = json.loads(docker("image", "inspect", IMAGE))
    assert facts["Config"]["User"] == "10001:10001"
    assert facts["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert facts["Config"]["Labels"]["org.opencontainers.image.title"] == "AirLab"


def test_empty_folders_get_the_shipped_manifest_and_the_embedded_model(tmp_path: Path) -> None:
    """`docker run` with folders of the user's own, on the first day."""
    mounts = []
    for name in ("config", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
        mounts.append(f"--volume={tmp_path / name}:/{name}")
    try:
        with container(
            "--network=none", "--env=AIRLAB_PUBLISHED=127.0.0.1", *HARDENED, *ROOM[1:], *mounts, IMAGE
        ) as name:
            until_healthy(name)
            assert ask(name, "health")["status"] == "ok"
        assert (tmp_path / "config/airlab.yaml").read_text() == (ROOT / "airlab.yaml").read_text()
        assert [file.name for file in (tmp_path / "models").iterdir()] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    finally:  # they belong to the container's user, whom only Docker can act as
        remove = ("--rm", "--network=none", *mounts, "--entrypoint=rm", IMAGE)
        docker("run", *remove, "/config/airlab.yaml", "/models/SmolLM2-135M-Instruct.Q4_1.gguf", code=None)


def test_fault_018_single_file_mount_is_what_doctor_warns_of() -> None:
    mount = f"--volume={ROOT / 'airlab.yaml'}:/config/airlab.yaml:ro"
    told = json.loads(docker("run", "--rm", "--network=none", mount, IMAGE, "doctor", "--json", code=None))
    [edits] = [check for check in told["checks"] if check["name"] == "edits"]
    assert edits["verdict"] == "warning"
    assert "single file" in edits["found"]


def test_fault_091_kernel_without_landlock_offers_no_tools_and_says_so(tmp_path: Path) -> None:
    """A seccomp profile that answers ENOSYS, which is what gVisor and old kernels do."""
    profile = tmp_path / "no-landlock.json"
    refused = {"names": _LANDLOCK, "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}))
    how = (
        "--network=none",
        "--env=AIRLAB_PUBLISHED=127.0.0.1",
        *HARDENED,
        *ROOM,
        f"--security-opt=seccomp={profile}",
        IMAGE,
    )
    with container(*how) as name:
        until_healthy(name)
        # The walls are tried in the background: until then nothing is offered either.
        health = wait_until(
            lambda: (told := ask(name, "health"))["status"] == "degraded" and told, "health says so", every_s=0.3
        )
        assert "cannot be confined" in health["message"]
        tools = ask(name, "tools")["tools"]
        assert tools
        assert not any(tool["offered"] for tool in tools)


def test_walls_and_random_calls_hold_inside_the_appliance() -> None:
    """The tests of the sandbox themselves, run in there: uid 10001, no capabilities, read-only root."""
    docker(
        "build",
        "--quiet",
        "--build-arg",
        f"IMAGE={IMAGE}",
        "--tag=airlab-test:pytest",
        "--file=tests/docker/pytest.Dockerfile",
        ".",
        bound_s=300,
    )
    how = ("--init", "--network=none", *HARDENED, f"--volume={ROOT}:/src:ro", "--workdir=/src")
    python = (
        "--entrypoint=/app/.venv/bin/python",
        "airlab-test:pytest",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
    )
    files = [f"tests/tools/test_{name}.py" for name in ("walls", "outside", "private_names", "what_stays")]
    with container(*how, *python, *files) as name:
        code = docker("wait", name, bound_s=300)
        told = docker("logs", name)
    assert code == "0", told
    assert " passed" in told.splitlines()[-1]
