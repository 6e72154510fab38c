"""`docker compose up` gives a service that answers, is locked in, comes back after a crash, and leaves nothing."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import httpx
import pytest

from tests.support.compose import BOUND_S, Project, docker, inspect, kill, project
from tests.support.docker import IMAGE
from tests.support.service import ROOT, events_of, wait_until

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    """compose.yaml as compose reads it, with nothing set."""
    told: dict[str, Any] = json.loads(docker("compose", "--file", "compose.yaml", "config", "--format", "json"))
    return told


def test_every_service_is_locked_in(plan: dict[str, Any]) -> None:
    for name, service in plan["services"].items():
        if name == "cuda":  # built, never run
            continue
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "on-failure"
        assert service["pids_limit"] > 0
        assert "noexec" in service["tmpfs"][0]
        assert not service.get("privileged")
        assert service.get("network_mode") != "host"


def test_only_the_launcher_holds_dockers_socket(plan: dict[str, Any]) -> None:
    holders = [
        name
        for name, service in plan["services"].items()
        if any("docker.sock" in mount["source"] + mount["target"] for mount in service.get("volumes", ()))
    ]
    assert holders == ["launcher"]
    assert plan["services"]["launcher"]["network_mode"] == "none"


def test_service_is_published_on_loopback_alone(plan: dict[str, Any]) -> None:
    assert [port["host_ip"] for port in plan["services"]["airlab"]["ports"]] == ["127.0.0.1"]


def test_the_manifest_is_mounted_with_its_folder(plan: dict[str, Any]) -> None:
    """A single file would stay the old one when an editor saves by renaming."""
    mounts = {mount["target"]: mount for mount in plan["services"]["airlab"]["volumes"]}
    assert mounts["/config"]["source"] == str(ROOT)
    assert mounts["/config"]["read_only"] is True
    assert {mounts[place]["type"] for place in ("/models", "/state", "/workspace")} == {"volume"}


def test_owners_variables_are_passed_on() -> None:
    told = {"N_GPU_LAYERS": "20", "LLAMA_CACHE": "/srv/llama", "HF_TOKEN": "hf_x", "AIRLAB_PROFILE": "generic"}
    plan = json.loads(docker("compose", "--file", "compose.yaml", "config", "--format", "json", environment=told))
    service = plan["services"]["airlab"]
    assert service["environment"]["N_GPU_LAYERS"] == "20"
    assert service["environment"]["HF_TOKEN"] == "hf_x"
    assert service["environment"]["AIRLAB_PROFILE"] == "generic"
    caches = [
        mount["source"] for mount in service["volumes"] if mount["target"] == service["environment"]["LLAMA_CACHE"]
    ]
    assert caches == ["/srv/llama"]


def test_first_answer_is_streamed_and_needs_no_hub(running: Project) -> None:
    asked = {
        "messages": [{"role": "user", "content": "Count to five."}],
        "max_tokens": 8,
        "temperature": 0,  # by chance it says nothing at all, now and then
        "stream": True,
    }
    with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=asked, timeout=BOUND_S) as answer:
        events = events_of(answer)
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-2])


def test_container_is_what_compose_asked_for(running: Project) -> None:
    """Read back from the daemon, which silently drops what it does not know."""
    facts = inspect(running.container())
    host = facts["HostConfig"]
    assert facts["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["Privileged"] is False
    assert host["PidsLimit"] == 2048
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["RestartPolicy"]["Name"] == "on-failure"
    assert {binding["HostIp"] for binding in facts["NetworkSettings"]["Ports"]["8080/tcp"]} == {"127.0.0.1"}
    writable = {mount["Destination"] for mount in facts["Mounts"] if mount["RW"]}
    assert writable == {"/models", "/state", "/workspace"}
    with httpx.Client(base_url=running.url, timeout=BOUND_S) as client:
        assert client.get("/health").json()["status"] == "ok"


def test_tools_run_behind_the_kernels_wall_in_there(running: Project) -> None:
    """The self-test at start tried what is forbidden, as uid 10001, without capabilities, on a read-only root."""
    hold = {"fs_read": "1", "fs_write": "1", "net": "1", "command": "1"}
    walls = r'airlab_sandbox_enforced\{class="(\w+)"\} (\d)'
    # They are tried in the background: a service is healthy before.
    wait_until(
        lambda: dict(re.findall(walls, running.ask("GET", "/metrics").text)) == hold, "every wall holds", every_s=0.2
    )
    wrote = {"arguments": {"path": "/workspace/note.txt", "lines": ["one"]}}
    assert running.ask("POST", "/tools/write_file/call", json=wrote).json()["status"] == "ok"
    for elsewhere in ("/config/airlab.yaml", "/state/airlab.db", "/etc/passwd"):
        answer = running.ask("POST", "/tools/read_file/call", json={"arguments": {"path": elsewhere}}).json()
        assert answer["status"] != "ok", elsewhere


def test_fault_018_edit_reaches_the_container(running: Project) -> None:
    """The folder is mounted, so that a file put in the manifest's place is seen in there."""
    before = running.ask("GET", "/health").json()["generation"]
    manifest = running.config / "airlab.yaml"
    fresh = manifest.with_suffix(".new")
    fresh.write_text(manifest.read_text().replace("max_tokens: 2048", "max_tokens: 1024"))
    fresh.replace(manifest)
    wait_until(lambda: running.ask("GET", "/health").json()["generation"] > before, "the edit is in force", every_s=0.2)


def test_doctor_in_the_container_finds_no_problem(running: Project) -> None:
    told = json.loads(docker("exec", running.container(), "airlab", "doctor", "--json"))
    assert told["problems"] == 0, told


def test_fault_104_killed_service_comes_back_and_remembers() -> None:
    """kill -9 of AirLab ends its container, and with that every engine in it; Docker starts it anew."""
    with project() as made:
        said = {"session_id": "tour", "messages": [{"role": "user", "content": "My name is Ada."}], "max_tokens": 4}
        made.ask("POST", "/chat", json=said)
        first = made.container()
        kill(first)
        made.until_healthy()
        assert made.container() == first
        assert inspect(first)["RestartCount"] == 1
        kept = made.ask("GET", "/sessions/tour").text
        assert "Ada" in kept
        again = {
            "session_id": "tour",
            "messages": [{"role": "user", "content": "Who?"}],
            "max_tokens": 4,
            "temperature": 0,  # by chance it says nothing at all, now and then
        }
        assert made.ask("POST", "/chat", json=again).json()["tokens_generated"] > 0


def test_shutdown_stays_down_and_compose_down_leaves_nothing() -> None:
    with project() as made:
        ended = made.container()
        made.ask("POST", "/shutdown")
        wait_until(lambda: not inspect(ended)["State"]["Running"], "it ends", bound_s=BOUND_S)
        facts = inspect(ended)
        assert (facts["State"]["ExitCode"], facts["RestartCount"]) == (0, 0)
        made.compose("down", "--volumes")
        assert not made.left()


def test_published_wide_it_does_not_start_without_keys() -> None:
    """The LAN recipe with its second half forgotten."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--env=AIRLAB_PUBLISHED=0.0.0.0", IMAGE],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 1
    assert "published on 0.0.0.0" in done.stderr
    assert "AIRLAB_API_KEY" in done.stderr
