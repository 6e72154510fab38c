"""compose.yaml with models in containers of their own: a chat through one, kills at both ends, and nothing left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.compose import BOUND_S, Project, docker, inspect, kill, project
from tests.support.docker import IMAGE, require_docker
from tests.support.service import events_of, wait_until

pytestmark = pytest.mark.docker


def manifest(**engine: str) -> str:
    """One model, in a container of its own."""
    model = {"filename": "SmolLM2-135M-Instruct.Q4_1.gguf", "context_length": 1024, "n_threads": 1}
    profile = {"match": "any", "engine": {"kind": "docker", "image": IMAGE, **engine}}
    made = {"version": 1, "default_model": "small", "profiles": {"generic": profile}, "models": {"small": model}}
    return json.dumps(made)


@pytest.fixture
def lab() -> Iterator[Project]:
    """A project whose one model runs in a container."""
    require_docker()
    with project(manifest=manifest()) as made:
        yield made
        made.compose("down", "--volumes", "--timeout", "30")
        assert not siblings_beside(made)


def siblings_beside(made: Project) -> list[str]:
    """Containers that engines of this project run in: those that hold a folder of its volume."""
    listed = docker("ps", "--all", "--quiet", "--filter", "label=dev.airlab.model=small").splitlines()
    # One that goes between the two questions has no mounts, and is none of them.
    mounts = {one: docker("inspect", "--format", "{{json .Mounts}}", one, code=None) for one in listed}
    return [one for one, text in mounts.items() if f"{made.name}_run" in text]


def the_sibling(made: Project, *, other_than: str | None = None) -> str:
    """The only container of an engine, once there is one, and no older one."""

    def look() -> str | None:
        found = siblings_beside(made)
        return found[0] if len(found) == 1 and found[0] != other_than else None

    return wait_until(look, "the model has one container", bound_s=BOUND_S, every_s=0.2)


def say(made: Project) -> str:
    """One streamed chat."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "stream": True}
    asked["temperature"] = 0  # by chance it says nothing at all, now and then
    with httpx.stream("POST", f"{made.url}/v1/chat/completions", json=asked, timeout=BOUND_S) as answer:
        events = events_of(answer)
    assert events[-1] == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-2])


def test_fault_104_chat_goes_through_a_sibling_and_survives_kills_at_both_ends(lab: Project) -> None:
    """kill -9 of the service, then of the launcher: each time one fresh container, and the old one is gone."""
    assert say(lab)
    first = the_sibling(lab)
    facts = inspect(first)
    assert facts["HostConfig"]["NetworkMode"] == "none"
    assert facts["HostConfig"]["CapDrop"] == ["ALL"]
    assert facts["HostConfig"]["ReadonlyRootfs"] is True
    assert facts["Config"]["User"] == "10001:10001"

    kill(lab.container("airlab"))
    lab.until_healthy()
    assert say(lab)
    second = the_sibling(lab, other_than=first)

    kill(lab.container("launcher"))
    lab.until_healthy("launcher")
    wait_until(lambda: second not in siblings_beside(lab), "the launcher sweeps", bound_s=BOUND_S, every_s=0.2)
    # The service asks for its container once a second: one who asks before it knows may be told that it broke off.
    wait_until(lambda: lab.ask("GET", "/ps").json()["models"][0]["state"] != "ready", "the service knows", every_s=0.2)
    assert say(lab)
    assert the_sibling(lab, other_than=second)
    assert lab.ask("GET", "/health").json()["status"] == "ok"


def test_without_dockers_socket_models_run_inside_the_service_and_health_says_why(tmp_path: Path) -> None:
    """A folder is what Docker puts in the place of a socket that is not there, as under a rootless one."""
    with project(manifest=manifest(fallback="native"), DOCKER_SOCKET=str(tmp_path)) as made:
        assert say(made)
        assert not siblings_beside(made)
        health = made.ask("GET", "/health").json()
        assert health["status"] == "degraded"
        assert "because Docker's socket" in health["message"]
        assert "no Docker socket" in made.compose("logs", "--no-color", "launcher")
