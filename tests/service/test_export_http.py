"""/export over real HTTP: the branches that are wanted, of the sessions that are wanted, as training takes them."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import httpx
import pytest

from tests.chat.talk import calls, configure, said, session
from tests.conftest import MakeLab
from tests.support.service import Lab, Service

LOADS = """
import json, sys, datasets
loaded = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
print(json.dumps([[[message["role"], message["content"]] for message in row["messages"]] for row in loaded]))
"""


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    lab = make_lab("fake")
    configure(lab, tools={"builtin": ["get_current_time"]})
    return lab


def export(service: Service, path: str = "/export", **query: Any) -> httpx.Response:
    answer = service.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer


def lines(service: Service, path: str = "/export", **query: Any) -> list[list[str]]:
    """The texts of each line."""
    told = export(service, path, **query).text.split("\n")[:-1]
    return [[message["content"] for message in json.loads(line)["messages"]] for line in told]


def test_the_wanted_branches_of_the_wanted_sessions(lab: Lab) -> None:
    lab.fault("small", echo=True)
    with lab.serve() as service:
        first = said(service, "one", session_id="a/1")
        said(service, "two", session_id="a/1")
        path = "/sessions/a%2F1"
        body = {"message_id": first["user_message_id"], "content": "uno"}
        service.http.post(f"{path}/edit", json=body).raise_for_status()
        said(service, "b", session_id="b", system_prompt="Be b.")
        service.http.patch("/sessions/b", json={"pinned": True}).raise_for_status()
        service.http.post("/sessions", json={"session_id": "empty"}).raise_for_status()

        assert lines(service) == [["uno", "uno"], ["b", "b"]]
        assert lines(service, branches="all") == [["one", "one", "two", "two"], ["uno", "uno"], ["b", "b"]]
        told = export(service, f"{path}/export", format="json", branches="all").json()["sessions"][0]["conversations"]
        assert [(branch["branch"], branch["active"]) for branch in told] == [(1, False), (2, True)]
        back = service.http.post(f"{path}/switch", json={"message_id": told[0]["message_id"]}).raise_for_status()
        assert [message["content"] for message in back.json()["messages"]] == ["one", "one", "two", "two"]
        service.http.post(f"{path}/switch", json={"message_id": told[1]["message_id"]}).raise_for_status()
        assert lines(service, pinned=True) == lines(service, session_id="b") == [["b", "b"]]
        assert lines(service, session_id=["b", "a/1"]) == lines(service)
        assert lines(service, since="2000-01-01") == lines(service)
        assert lines(service, since="2999-01-01T00:00:00Z") == []
        assert lines(service, f"{path}/export") == [["uno", "uno"]]
        assert lines(service, "/sessions/b/export", system=True) == [["Be b.", "b", "b"]]
        assert "helpful" in lines(service, f"{path}/export", system=True)[0][0]
        kind = export(service, "/sessions/b/export", format="markdown")
        assert kind.headers["content-type"].startswith("text/markdown")
        assert kind.headers["content-disposition"] == 'attachment; filename="airlab-export.md"'
        assert [row["session_id"] for row in export(service, format="json").json()["sessions"]] == ["a/1", "b"]
        for query in ({"since": "soon"}, {"format": "xml"}, {"branches": "some"}):
            assert service.http.get("/export", params=query).status_code == 400
        assert service.http.get("/export", params={"session_id": "nobody"}).status_code == 404


def test_an_export_loads_as_a_data_set(lab: Lab) -> None:
    """With tools in some lines and none in others, as real conversations are."""
    lab.fault("small", supports_tools=True, replies=[calls(("get_current_time", {"timezone": "UTC"})), "noon", "hello"])
    with lab.serve() as service:
        said(service, "when?", session_id="a", enable_tools=True)
        said(service, "hi\nthere\u2028", session_id="b")
        told = export(service, tools=True, system=True, reasoning=True).text
        assert len(session(service, "a")["messages"]) == 4
    python = os.environ.get("AIRLAB_TEST_DATASETS")
    if python is None:
        pytest.skip("AIRLAB_TEST_DATASETS names no Python that has Hugging Face datasets; make test-datasets makes one")

    file = lab.folder / "train.jsonl"
    file.write_text(told)
    command = [python, "-c", LOADS, str(file), str(lab.folder / "cache")]
    environment = {"HF_HUB_OFFLINE": "1", "HOME": str(lab.folder)}
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)

    written = [json.loads(line)["messages"] for line in told.split("\n")[:-1]]
    assert json.loads(loaded.stdout) == [[[message["role"], message["content"]] for message in row] for row in written]
