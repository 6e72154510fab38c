"""POST and DELETE of /models and /tools over real HTTP: the file is edited, and what it says is in force at once."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, KEYS, USE_KEY, Lab, Service

TEXT = """\
version: 1
default_model: small    # serves when a request names none

models:
  small: {filename: small.gguf, context_length: 1024, n_threads: 1}
  tuned: {filename: tuned.gguf, context_length: 1024, n_threads: 1, base_model: base}
  base: {filename: base.gguf, context_length: 1024, n_threads: 1}

tools:
  builtin: all          # or a list
"""
LATE = {"key": "late", "filename": "late.gguf", "context_length": "1k", "n_threads": 1}
LATE_LINES = "  late:\n    filename: late.gguf\n    context_length: 1k\n    n_threads: 1\n"


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    lab = make_lab()
    lab.write_manifest(TEXT)
    lab.lay_weights("late")
    return lab


def digest(lab: Lab) -> str:
    return hashlib.sha256(lab.manifest.read_bytes()).hexdigest()


def keys(service: Service) -> list[str]:
    return [model["key"] for model in service.http.get("/models").raise_for_status().json()["models"]]


def error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert body["error"]["code"] == code
    assert body["detail"] == body["error"]["message"]
    return body


def test_model_that_is_posted_serves_without_a_restart_and_is_gone_when_it_is_deleted(lab: Lab) -> None:
    with lab.serve() as service:
        answer = service.http.post("/models", json=LATE)

        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert (body["model_key"], body["in_force"], body["sha256"]) == ("late", True, digest(lab))
        assert body["model"] == {"filename": "late.gguf", "context_length": 1024, "n_threads": 1}
        assert answer.headers["etag"] == f'"{digest(lab)}"'
        assert lab.manifest.read_text() == TEXT.replace(
            "n_threads: 1}\n\ntools", f"n_threads: 1}}\n{LATE_LINES}\ntools"
        )
        assert keys(service) == ["small", "tuned", "base", "late"]
        assert service.chat(model="late").status_code == 200

        answer = service.http.delete("/models/late")
        assert (answer.status_code, answer.json()["in_force"]) == (200, True)
        assert lab.manifest.read_text() == TEXT
        assert keys(service) == ["small", "tuned", "base"]
        assert service.chat(model="late").status_code == 404
        assert service.log.count("manifest edited") == 2


def test_edit_leaves_the_models_alone_that_it_is_not_about(lab: Lab) -> None:
    with lab.serve() as service:
        service.chat()
        pid = service.engine().pid
        service.http.post("/models", json=LATE).raise_for_status()

        assert service.model()["pid"] == pid
        assert service.chat().status_code == 200


def test_model_that_the_manifest_would_refuse_is_answered_with_its_problems(lab: Lab) -> None:
    refused: list[tuple[dict[str, Any], str, str]] = [
        ({"contxt_length": 1}, "models.late.contxt_length", "did you mean `context_length`?"),
        ({"filename": "/etc/passwd"}, "models.late.filename", "below models/"),
        ({"preload": "yes"}, "models.late.preload", "neither true nor false"),
        ({"key": "../late"}, "models.../late", "not written as it has to be"),
        ({"aliases": ["small"]}, "models.late.aliases[0]", "taken already"),
        ({"filename": None}, "models.late", "where its weights are"),
    ]
    with lab.serve() as service:
        for change, path, words in refused:
            refusal = error(service.http.post("/models", json=LATE | change), 400, "manifest_refused")
            assert [problem["path"] for problem in refusal["problems"]] == [path]
            assert words in refusal["problems"][0]["message"]
            assert "nothing was written" in refusal["detail"]
        for body in ({}, {"key": 1}, {"key": None, "filename": "a.gguf"}):
            answer = service.http.post("/models", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "key")
        deep: Any = 1
        for _ in range(200):
            deep = [deep]
        error(service.http.post("/models", json={**LATE, "description": deep}), 409, "manifest_not_editable")

        assert lab.manifest.read_text() == TEXT
        assert keys(service) == ["small", "tuned", "base"]


def test_what_others_refer_to_is_not_deleted(lab: Lab) -> None:
    with lab.serve() as service:
        for key, path in (("small", "default_model"), ("base", "models.tuned.base_model")):
            refusal = error(service.http.delete(f"/models/{key}"), 400, "manifest_refused")
            assert [problem["path"] for problem in refusal["problems"]] == [path]
            assert f"no model has the key '{key}'" in refusal["detail"]
        assert lab.manifest.read_text() == TEXT


def test_what_is_there_already_or_not_at_all_is_said_so(lab: Lab) -> None:
    with lab.serve() as service:
        http = service.http
        error(http.post("/models", json={**LATE, "key": "small"}), 409, "already_there")
        assert "did you mean `small`?" in error(http.delete("/models/smal"), 404, "model_not_found")["detail"]
        error(http.post("/tools", json={"name": "read_file"}), 409, "already_there")
        assert (
            "did you mean `read_file`?"
            in error(http.post("/tools", json={"name": "read_fil"}), 404, "tool_not_found")["detail"]
        )
        error(http.delete("/tools/read_fil"), 404, "tool_not_found")
        assert lab.manifest.read_text() == TEXT


def test_tools_are_taken_away_and_given_back(lab: Lab) -> None:
    def offered() -> str:
        message: str = service.http.post("/command", json={"command": "tools"}).json()["message"]
        return message

    with lab.serve() as service:
        assert "read_file" in offered()
        answer = service.http.delete("/tools/read_file")
        assert (answer.status_code, "read_file" in answer.json()["tools"]) == (200, False)
        assert "read_file" not in offered()

        answer = service.http.post("/tools", json={"name": "read_file"})
        assert (answer.status_code, answer.json()["tools"][-1]) == (201, "read_file")
        assert "read_file" in offered()
        assert "  # or a list\n" in lab.manifest.read_text()


def test_if_match_refuses_when_somebody_else_was_faster(lab: Lab) -> None:
    with lab.serve() as service:
        seen = service.http.get("/manifest").headers["etag"]
        first = service.http.post("/models", json=LATE, headers={"if-match": seen})
        assert first.status_code == 201

        second = service.http.delete("/tools/read_file", headers={"if-match": seen})
        error(second, 412, "precondition_failed")
        assert "builtin: all" in lab.manifest.read_text()
        again = service.http.delete("/tools/read_file", headers={"if-match": first.headers["etag"]})
        assert again.status_code == 200


def test_models_posted_at_the_same_time_are_all_there(lab: Lab) -> None:
    with lab.serve() as service, ThreadPoolExecutor(4) as pool:
        added = pool.map(lambda n: service.http.post("/models", json={**LATE, "key": f"late-{n}"}), range(4))

        assert [answer.status_code for answer in added] == [201] * 4
        assert sorted(keys(service)) == ["base", *(f"late-{n}" for n in range(4)), "small", "tuned"]


def test_file_that_somebody_broke_is_not_edited_and_what_was_in_force_stays(lab: Lab) -> None:
    with lab.serve() as service:
        lab.write_manifest(TEXT + "contxt: 1\n")
        refusal = error(service.http.post("/models", json=LATE), 422, "manifest_invalid")

        assert [problem["path"] for problem in refusal["problems"]] == ["contxt"]
        assert keys(service) == ["small", "tuned", "base"]
        assert lab.manifest.read_text() == TEXT + "contxt: 1\n"


def test_guarded_edit_is_written_and_says_how_it_comes_into_force(lab: Lab) -> None:
    """``policy.reload_guard`` asks before tools are allowed more, whoever wrote it into the file."""
    lab.write_manifest(TEXT.replace("builtin: all", "builtin: [read_file]") + "\npolicy: {reload_guard: true}\n")
    with lab.serve() as service:
        answer = service.http.post("/tools", json={"name": "get_current_time"})

        body = answer.json()
        assert (answer.status_code, body["in_force"], body["sha256"]) == (202, False, digest(lab))
        assert f"/manifest/reload?confirm={digest(lab)}" in body["message"]
        confirmed = service.http.post("/manifest/reload", params={"confirm": digest(lab)})
        assert confirmed.json()["result"] == "committed"


def test_edits_need_the_admin_key(make_lab: MakeLab) -> None:
    lab = make_lab(environment=KEYS)
    with lab.serve(key=USE_KEY) as service:
        before = lab.manifest.read_bytes()
        asked = [("POST", "/models", LATE), ("DELETE", "/models/small", None)]
        asked += [("POST", "/tools", {"name": "read_file"}), ("DELETE", "/tools/read_file", None)]
        for method, path, body in asked:
            answer = service.http.request(method, path, json=body)
            assert answer.status_code == 403, (method, path)
        assert lab.manifest.read_bytes() == before
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        assert service.http.delete("/tools/read_file", headers=headers).status_code == 200
