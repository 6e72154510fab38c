"""``airlab approvals``: a call of somebody else's waits, and a person says yes or no from a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Call
from tests.support.service import ROOT, Lab, Service, temporary_lab, wait_until
from tests.support.terminal import CTRL_C, ENTER, Terminal, at_terminal


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with temporary_lab("fake") as lab:
        yield lab


@pytest.fixture(scope="module")
def service(lab: Lab) -> Iterator[Service]:
    with lab.serve() as service:
        yield service


@pytest.fixture
def precious(lab: Lab) -> Path:
    """A file that nobody may delete without a yes."""
    file = lab.folder / "workspace" / "precious.txt"
    file.write_text("precious")
    return file


def delete(service: Service, file: Path) -> dict[str, Any]:
    """Ask for it as an agent does that has somebody to be asked; the result, once it was answered."""
    body = {"arguments": {"path": str(file)}, "approvals": True}
    answer: dict[str, Any] = service.http.post("/tools/delete_file/call", json=body).json()
    return answer


def waiting(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get("/approvals").json()["approvals"]
    return found


def asked(service: Service, file: Path, background: ThreadPoolExecutor) -> Future[dict[str, Any]]:
    """A call that waits."""
    call = background.submit(delete, service, file)
    wait_until(lambda: waiting(service), "the call waits")
    return call


def at_approvals(lab: Lab, service: Service, *arguments: str) -> AbstractContextManager[Terminal]:
    """``airlab approvals`` on a terminal."""
    command = [sys.executable, "-m", "app", "approvals", "--url", service.url, *arguments]
    told = {**lab.full_environment, "PYTHONPATH": str(ROOT)}
    return at_terminal(command, environment=told, folder=lab.folder, columns=300)


@pytest.mark.parametrize(("word", "status"), [("y", "ok"), ("n", "denied"), ("", "denied"), ("yessir", "denied")])
def test_person_at_another_terminal_answers_and_only_a_plain_yes_is_one(
    lab: Lab, service: Service, precious: Path, background: ThreadPoolExecutor, word: str, status: str
) -> None:
    call = asked(service, precious, background)

    with at_approvals(lab, service) as terminal:
        terminal.until(f'anonymous asks May it? delete_file(path="{precious}")')
        terminal.until("[y/N, ")
        terminal.type(word + ENTER)
        terminal.until("granted: delete_file" if status == "ok" else "refused: delete_file")
        assert terminal.ended() == 0

    assert call.result()["status"] == status
    assert precious.exists() is (status == "denied")


def test_what_was_typed_before_the_question_is_no_answer_to_it(
    lab: Lab, service: Service, precious: Path, background: ThreadPoolExecutor
) -> None:
    with at_approvals(lab, service, "-f") as terminal:
        first = asked(service, precious, background)
        terminal.until("[y/N, ")
        terminal.type(f"n{ENTER}y{ENTER}")
        terminal.until("refused: delete_file")
        assert first.result()["status"] == "denied"

        terminal.clear()
        second = asked(service, precious, background)
        terminal.until("[y/N, ")
        assert waiting(service)
        terminal.type(f"n{ENTER}")
        assert second.result()["status"] == "denied"
        terminal.until("refused: delete_file")
        terminal.type(CTRL_C)
        assert terminal.ended() == 130
    assert precious.exists()


def test_call_that_somebody_else_answered_is_said_to_wait_no_more(
    lab: Lab, service: Service, precious: Path, background: ThreadPoolExecutor
) -> None:
    call = asked(service, precious, background)

    with at_approvals(lab, service) as terminal:
        terminal.until("[y/N, ")
        [approval] = waiting(service)
        assert service.http.post(f"/approvals/{approval['id']}", json={"grant": False}).status_code == 200
        terminal.type("y" + ENTER)
        terminal.until("this call waits no more")
        assert terminal.ended() == 0
    assert call.result()["status"] == "denied"
    assert precious.exists()


def test_without_a_terminal_they_are_listed_and_nothing_is_answered(
    lab: Lab,
    service: Service,
    precious: Path,
    background: ThreadPoolExecutor,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = asked(service, precious, background)
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        listed = call(lab, "approvals", "--url", service.url)
    told = call(lab, "approvals", "--url", service.url, "--json")

    [approval] = waiting(service)
    assert f'anonymous asks: delete_file(path="{precious}")' in listed.stdout
    assert f"(POST /approvals/{approval['id']})" in listed.stdout
    assert json.loads(told.stdout) == [approval]
    service.http.post(f"/approvals/{approval['id']}", json={"grant": False})
    assert waits.result()["status"] == "denied"
    assert call(lab, "approvals", "--url", service.url).stdout == ""
