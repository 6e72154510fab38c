"""A call that needs a person's word, in a conversation: who is asked, what a yes, a no and silence lead to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeLab
from tests.support.service import Lab, Service


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """A model that overwrites a file, and then speaks."""
    lab = make_lab(models={"small": {"tool_mode": "guided", "context_length": 4096}})
    (lab.folder / "workspace").mkdir()
    notes(lab).write_text("old")
    decision = {"tool": "write_file", "arguments": {"path": str(notes(lab).resolve()), "lines": ["new"]}}
    lab.fault("small", replies=[json.dumps(decision), '{"tool": "none"}', "Done."])
    return lab


@pytest.fixture
def service(lab: Lab) -> Iterator[Service]:
    with lab.serve() as service:
        yield service


def notes(lab: Lab) -> Path:
    return lab.folder / "workspace" / "notes.txt"


def turn(service: Service, *, answer: bool | None, approvals: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """The events of a turn; what it asks is answered as told."""
    said = {"messages": [{"role": "user", "content": "Write."}], "enable_tools": True, "stream": True}
    told, name = [], ""
    with service.http.stream("POST", "/chat", json=said | {"approvals": approvals}) as events:
        for line in events.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                told.append((name, data))
                if name == "approval" and answer is not None:
                    given = service.http.post(f"/approvals/{data['id']}", json={"grant": answer})
                    assert given.status_code == 200, given.text
    return told


def results(told: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [data for name, data in told if name == "tool_result"]


def test_overwriting_happens_once_a_person_has_said_yes(lab: Lab, service: Service) -> None:
    told = turn(service, answer=True)
    asked = [data for name, data in told if name == "approval"]
    assert len(asked) == 1
    assert str(notes(lab).resolve()) in asked[0]["words"]
    assert [result["status"] for result in results(told)] == ["ok"]
    assert "allowed by" in results(told)[0]["verdict"]
    assert notes(lab).read_text().strip() == "new"


def test_no_is_an_answer_to_the_model_and_nothing_is_overwritten(lab: Lab, service: Service) -> None:
    told = turn(service, answer=False)
    assert [result["status"] for result in results(told)] == ["denied"]
    assert notes(lab).read_text() == "old"
    assert told[-1][0] == "done"


def test_nobody_is_asked_where_the_request_offers_nobody(lab: Lab, service: Service) -> None:
    told = turn(service, answer=None, approvals=False)
    assert "approval" not in [name for name, _ in told]
    assert [result["status"] for result in results(told)] == ["denied"]
    assert notes(lab).read_text() == "old"
