"""``airlab tools call`` and ``airlab audit`` against a running AirLab."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.service import ROOT, Lab, Service, temporary_lab
from tests.support.terminal import ENTER, at_terminal

Airlab = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Lab, Service]]:
    """One AirLab without keys for the tests of this file."""
    with temporary_lab("fake") as lab, lab.serve() as service:
        yield lab, service


@pytest.fixture
def airlab(running: tuple[Lab, Service], call: Call) -> Airlab:
    lab, service = running
    return lambda *arguments: call(lab, *arguments, AIRLAB_PORT=service.url.rpartition(":")[2])


@pytest.fixture
def workspace(running: tuple[Lab, Service]) -> Path:
    return running[0].folder / "workspace"


def test_arguments_become_what_the_tool_takes(airlab: Airlab, workspace: Path) -> None:
    made = airlab("tools", "call", "write_file", f"path={workspace}/a.txt", "lines=one=1", "lines=two")
    assert (made.returncode, json.loads(made.stdout)) == (0, {"status": "ok", "bytes_written": 10})
    assert (workspace / "a.txt").read_text() == "one=1\ntwo\n"

    listed = airlab("tools", "call", "list_contents", f"path={workspace}", "show_hidden=TRUE", "--json")
    assert "a.txt" in str(json.loads(listed.stdout)["result"]["items"])
    wrong = airlab("tools", "call", "search_files", f"path={workspace}", "pattern=*", "max_results=many")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "`max_results` must be a whole number" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("read_fil",), "did you mean read_file?"),
        (("read_file", "path"), "'path' is no KEY=VALUE; this tool takes path"),
        (("read_file", "path=/etc/passwd"), "denied: Denied: /etc/passwd is protected"),
        (("read_file", "pth=/a"), "did you mean `path`?"),
    ],
)
def test_what_cannot_be_called_is_said_in_a_sentence(airlab: Airlab, arguments: tuple[str, ...], words: str) -> None:
    done = airlab("tools", "call", *arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def test_text_of_a_file_does_not_steer_the_terminal(airlab: Airlab, workspace: Path) -> None:
    (workspace / "b.txt").write_text("\x1b[2J\u202eümlaut")
    done = airlab("tools", "call", "read_file", f"path={workspace}/b.txt")

    assert "ümlaut" in done.stdout
    assert done.stdout.replace("\n", "").isprintable()


def test_without_a_terminal_nobody_is_asked(airlab: Airlab, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "c.txt").touch()
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        done = airlab("tools", "call", "delete_file", f"path={workspace}/c.txt")

    assert done.returncode == 1
    assert "approvals: true" in done.stderr
    assert (workspace / "c.txt").exists()


@pytest.mark.parametrize(("word", "code"), [("y", 0), ("Yes", 0), ("n", 1), ("", 1), ("yessir", 1)])
def test_terminal_is_asked_and_only_a_plain_yes_is_one(
    running: tuple[Lab, Service], workspace: Path, word: str, code: int
) -> None:
    file = workspace / "precious.txt"
    file.touch()
    lab, service = running
    command = [sys.executable, "-m", "app", "tools", "call", "delete_file", f"path={file}", "--url", service.url]
    told = {**lab.full_environment, "PYTHONPATH": str(ROOT)}
    with at_terminal(command, environment=told, folder=lab.folder, columns=300) as terminal:
        terminal.until(f'May it? delete_file(path="{file}")')
        terminal.until("[y/N, ")
        terminal.type(word + ENTER)
        assert terminal.ended() == code

    assert terminal.shows('"status": "ok"') is (code == 0)
    assert file.exists() is (code == 1)


def test_audit_shows_the_last_calls_newest_first(airlab: Airlab, workspace: Path) -> None:
    for name in ("first", "second"):
        airlab("tools", "call", "get_file_info", f"path={workspace}/{name}-\x9b31m")
    newest, older = airlab("audit", "--tool", "get_file_info", "--limit", "2").stdout.splitlines()

    assert "anonymous get_file_info" in newest
    assert "second-" in newest
    assert ": allow, " in newest
    assert "first-" in older
    assert newest.isprintable()
    entries = json.loads(airlab("audit", "--json", "--limit", "1").stdout)
    assert [entry["tool"] for entry in entries] == ["get_file_info"]
    assert airlab("audit", "--session", "nobody's").stdout == ""
    assert "allowed: 1 to 1000" in airlab("audit", "--limit", "0").stderr


def test_nobody_there_is_said_in_a_sentence(running: tuple[Lab, Service], call: Call) -> None:
    for arguments in (("tools", "call", "read_file"), ("audit",)):
        done = call(running[0], *arguments, "--url", "http://127.0.0.1:1")
        assert (done.returncode, done.stdout) == (1, "")
        assert "no AirLab answers at" in done.stderr
