"""Tools declared in the YAML while AirLab serves: they come, change and go without a restart; rules bind at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import MakeLab
from tests.support.service import ROOT, Lab, Service, wait_until

GREET: dict[str, Any] = {
    "kind": "command",
    "description": "Say hello.",
    "parameters": {"properties": {"name": {"type": "string"}}, "required": ["name"]},
    "argv": ["echo", "--", "hello {name}"],
}
SUM: dict[str, Any] = {
    "kind": "python",
    "description": "Add up.",
    "parameters": {"properties": {"numbers": {"type": "array", "items": {"type": "number"}}}, "required": ["numbers"]},
    "entry": "sums:total",
}


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    lab = make_lab()
    (lab.folder / "tools").mkdir()
    (lab.folder / "tools" / "sums.py").write_text("def total(numbers):\n    return {'total': sum(numbers)}\n")
    return lab


@pytest.fixture
def service(lab: Lab) -> Iterator[Service]:
    with lab.serve() as service:
        yield service


def declare(lab: Lab, service: Service, *, policy: dict[str, Any] | None = None, **tools: Any) -> None:
    """Put these tools into the manifest, and the manifest in force."""
    manifest = json.loads(lab.manifest.read_text()) | {"tools": {"builtin": "all", **tools}, "policy": policy or {}}
    new = lab.manifest.with_name("new.yaml")
    new.write_text(json.dumps(manifest))
    new.replace(lab.manifest)
    answer = service.http.post("/manifest/reload")
    assert answer.status_code == 200, answer.text


def call(service: Service, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = service.http.post(f"/tools/{tool}/call", json={"arguments": arguments})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def offered(service: Service) -> list[str]:
    return [tool["name"] for tool in service.http.get("/tools").json()["tools"]]


def test_command_comes_changes_and_goes_without_a_restart(lab: Lab, service: Service) -> None:
    declare(lab, service, greet=GREET)
    assert "hello Ada" in str(call(service, "greet", name="Ada")["result"])
    declare(lab, service, greet=GREET | {"argv": ["echo", "--", "goodbye {name}"]})
    assert "goodbye Ada" in str(call(service, "greet", name="Ada")["result"])
    declare(lab, service)
    assert service.http.post("/tools/greet/call", json={"arguments": {"name": "Ada"}}).status_code == 404


def test_python_function_runs_in_a_worker_and_is_read_again_at_a_reload(lab: Lab, service: Service) -> None:
    declare(lab, service, sums=SUM)
    assert call(service, "sums", numbers=[1, 2])["result"]["content"] == {"total": 3}
    (lab.folder / "tools" / "sums.py").write_text("def total(numbers):\n    return {'total': max(numbers)}\n")
    assert service.http.post("/manifest/reload").status_code == 200
    assert call(service, "sums", numbers=[1, 2])["result"]["content"] == {"total": 2}


def test_wrong_arguments_are_an_answer_and_nothing_runs(lab: Lab, service: Service) -> None:
    declare(lab, service, greet=GREET)
    told = call(service, "greet", nome="Ada")
    assert (told["status"], told["ran"]) == ("error", False)
    assert "name" in str(told["result"])


def test_fault_027_rules_that_are_tightened_bind_the_next_call(lab: Lab, service: Service) -> None:
    (lab.folder / "workspace" / "a.txt").write_text("a")
    path = str((lab.folder / "workspace" / "a.txt").resolve())
    declare(lab, service, policy={"destructive": "allow"})
    assert call(service, "write_file", path=path, lines=["b"])["status"] == "ok"
    declare(lab, service, policy={"destructive": "deny"})
    assert call(service, "write_file", path=path, lines=["c"])["status"] == "denied"
    declare(lab, service, policy={"roots": [{"path": "workspace", "access": "read"}]})
    assert call(service, "write_file", path=path + "2", lines=["c"])["status"] == "denied"
    declare(lab, service, policy={"roots": []})
    assert call(service, "read_file", path=path)["status"] == "denied"
    assert (lab.folder / "workspace" / "a.txt").read_text().strip() == "b"


def test_tools_of_an_mcp_server_are_offered_once_it_is_connected_and_leave_with_it(lab: Lab, service: Service) -> None:
    server = [sys.executable, "-m", "tests.support.mcp_server"]
    where = {"kind": "mcp", "command": ["/usr/bin/env", "-C", str(ROOT), *server], "allow": ["search"]}
    declare(lab, service, docs=where | {"trust_hints": True})
    wait_until(lambda: "docs__search" in offered(service), "the server's tool is offered")
    assert "docs__table" not in offered(service)
    told = call(service, "docs__search", text="x", count=2)
    assert (told["status"], "2 times x" in str(told["result"])) == ("ok", True)
    declare(lab, service)
    assert "docs__search" not in offered(service)
