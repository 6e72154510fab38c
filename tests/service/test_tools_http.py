"""Tools over real HTTP: the list, one call by hand, the person who is asked, and the account of it all."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import ADMIN_KEY, KEYS, USE_KEY, Service, temporary_lab, wait_until

USE = {"authorization": f"Bearer {USE_KEY}"}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One service for the tests of this file; each works on files of its own."""
    with temporary_lab("fake", environment=KEYS) as lab, lab.serve(key=ADMIN_KEY) as service:
        yield service


@pytest.fixture
def precious(service: Service, request: pytest.FixtureRequest) -> Path:
    """A file that is asked about before it goes."""
    file = service.log_file.parent / "workspace" / f"{request.node.name[:60]}.txt"
    file.write_text("precious")
    return file


def call(service: Service, tool: str, arguments: dict[str, Any], **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    return service.http.post(f"/tools/{tool}/call", json={"arguments": arguments, **more}, headers=headers)


def called(service: Service, tool: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = call(service, tool, arguments, **more)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    assert result.keys() == {"status", "result", "verdict", "duration_s", "ran"}
    return result


def pending(service: Service, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = service.http.get("/approvals", headers=headers or {}).json()["approvals"]
    return answer


def events(answer: httpx.Response) -> Generator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_list_says_of_each_tool_what_it_takes_how_risky_it_is_and_what_confines_it(service: Service) -> None:
    body = service.http.get("/tools", headers=USE).raise_for_status().json()
    tools = {tool["name"]: tool for tool in body["tools"]}

    assert (tools["read_file"]["risk"], tools["read_file"]["class"]) == ("read", "fs_read")
    assert (tools["delete_file"]["risk"], tools["delete_file"]["class"]) == ("destructive", "fs_write")
    assert "pattern" in tools["read_file"]["parameters"]["properties"]["path"]
    assert tools["copy_file"]["changes"] == ["dest"]
    assert (body["switch"], body["sandbox"], body["destructive"]) == ("on", "required", "ask")
    assert body["enforced"].keys() == {"fs_read", "fs_write", "net", "command"}
    for tool in tools.values():
        assert tool["offered"] is (tool["why_not"] is None)


def test_tool_is_called_as_a_model_would_call_it(service: Service, precious: Path) -> None:
    result = called(service, "read_file", {"path": str(precious)}, headers=USE)

    assert (result["status"], result["result"], result["ran"]) == ("ok", {"content": "precious", "lines": 1}, True)
    assert result["verdict"].startswith("reads below the roots only")
    assert called(service, "read_file", {"path": "/etc/passwd"})["status"] == "denied"
    assert called(service, "read_file", {"pth": "/a"})["result"]["code"] == "invalid_arguments"


def test_tool_that_changes_something_needs_the_admin_key(service: Service, precious: Path) -> None:
    """Nobody sees what is called by hand; what a model does stands in its conversation."""
    for tool in ("write_file", "delete_file", "create_directory"):
        refused = call(service, tool, {"path": str(precious), "lines": "x"}, headers=USE)
        assert refused.status_code == 403
    assert httpx.post(f"{service.url}/tools/read_file/call", json={}).status_code == 401
    assert precious.read_text() == "precious"
    assert called(service, "write_file", {"path": f"{precious}.new", "lines": "x"})["status"] == "ok"


def test_unknown_tool_and_bad_bodies_are_refused_with_the_nearest_name(service: Service) -> None:
    unknown = call(service, "read_fil", {})

    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "tool_not_found")
    assert "did you mean read_file?" in unknown.json()["detail"]
    bodies: list[Any] = [{"arguments": []}, {"argument": {}}, {"approvals": "yes"}, [], "x"]
    for body in bodies:
        refused = service.http.post("/tools/read_file/call", json=body)
        assert refused.status_code == 400, refused.text


def test_without_approvals_what_takes_away_is_denied_at_once(service: Service, precious: Path) -> None:
    result = called(service, "delete_file", {"path": str(precious)})

    assert (result["status"], result["ran"]) == ("denied", False)
    assert "approvals: true" in result["result"]["error"]
    assert precious.exists()


@pytest.mark.parametrize(("grant", "status"), [(True, "ok"), (False, "denied")])
def test_call_waits_for_the_word_of_a_person(service: Service, precious: Path, *, grant: bool, status: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(called, service, "delete_file", {"path": str(precious)}, approvals=True)
        [question] = wait_until(lambda: pending(service), "somebody is asked")
        assert str(precious) in question["words"]
        assert precious.exists(), "nothing happens before the answer"
        said = service.http.post(f"/approvals/{question['id']}", json={"grant": grant}).raise_for_status().json()
        result = waiting.result()

    assert said["status"] == ("granted" if grant else "refused")
    assert (result["status"], precious.exists()) == (status, not grant)
    assert pending(service) == []
    entry = service.http.get("/audit", params={"tool": "delete_file", "limit": 1}).json()["entries"][0]
    assert (entry["verdict"], entry["approved_by"], entry["status"]) == ("ask", "admin-key" if grant else None, status)


def test_stream_shows_the_question_and_then_the_result(service: Service, precious: Path) -> None:
    body = {"arguments": {"path": str(precious)}, "approvals": True, "stream": True}
    with service.http.stream("POST", "/tools/delete_file/call", json=body) as answer:
        stream = events(answer)
        name, question = next(stream)
        assert (name, question["tool"], question["limit_s"]) == ("approval", "delete_file", 60)
        service.http.post(f"/approvals/{question['id']}", json={"grant": True}).raise_for_status()
        rest = list(stream)

    assert [(name, data["status"]) for name, data in rest] == [("result", "ok")]
    assert not precious.exists()


def test_client_that_leaves_takes_its_question_along(service: Service, precious: Path) -> None:
    body = {"arguments": {"path": str(precious)}, "approvals": True, "stream": True}
    with service.http.stream("POST", "/tools/delete_file/call", json=body) as answer:
        _, question = next(events(answer))
    wait_until(lambda: not pending(service), "the question is gone")

    late = service.http.post(f"/approvals/{question['id']}", json={"grant": True})
    assert (late.status_code, late.json()["error"]["code"]) == (404, "approval_not_found")
    assert precious.exists()


def test_key_answers_only_what_it_asked_for_itself(service: Service, precious: Path) -> None:
    body = {"arguments": {"path": str(precious)}, "approvals": True, "stream": True}
    with service.http.stream("POST", "/tools/delete_file/call", json=body) as answer:
        stream = events(answer)
        _, question = next(stream)
        assert pending(service, USE) == []
        foreign = service.http.post(f"/approvals/{question['id']}", json={"grant": True}, headers=USE)
        assert foreign.status_code == 404
        for wrong in ({}, {"grant": "yes"}, {"grant": True, "all": True}):
            assert service.http.post(f"/approvals/{question['id']}", json=wrong).status_code == 400
        assert len(pending(service)) == 1
        stream.close()
    wait_until(lambda: not pending(service), "the question is gone")
    assert precious.exists()


def test_audit_tells_of_every_call_to_the_admin_alone(service: Service, precious: Path) -> None:
    called(service, "read_file", {"path": str(precious)}, headers=USE)
    [entry] = service.http.get("/audit", params={"tool": "read_file", "limit": 1}).raise_for_status().json()["entries"]

    assert (entry["actor"], entry["session"], entry["turn"]) == ("api-key", None, None)
    assert json.loads(entry["arguments"]) == {"path": str(precious)}
    assert (entry["verdict"], entry["status"]) == ("allow", "ok")
    assert entry["duration_s"] > 0
    assert entry["result_bytes"] > 0
    assert service.http.get("/audit", params={"session": "nobody's"}).json() == {"entries": []}
    assert service.http.get("/audit", headers=USE).status_code == 403
    for limit in ("0", "1001", "x"):
        assert service.http.get("/audit", params={"limit": limit}).status_code == 400


def test_figures_and_words_say_what_the_kernel_enforces(service: Service) -> None:
    enforced = service.http.get("/tools").json()["enforced"]
    lines = service.http.get("/metrics").text.splitlines()
    words = service.http.post("/command", json={"command": "tools"}).json()["message"]

    for kind, told in enforced.items():
        assert f'airlab_sandbox_enforced{{class="{kind}"}} {int(told["enforced"])}' in lines
        assert kind in words.partition("enforced: ")[2]


def test_schema_documents_every_route_of_tools(service: Service) -> None:
    paths = service.http.get("/schema/openapi.json").raise_for_status().json()["paths"]

    for path, method in (
        ("/tools", "get"),
        ("/tools/{name}/call", "post"),
        ("/approvals", "get"),
        ("/approvals/{approval_id}", "post"),
        ("/audit", "get"),
    ):
        assert paths[path][method]["description"]
