"""``airlab sessions`` and ``airlab export`` against a running AirLab."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.chat.talk import said
from tests.cli.conftest import Call
from tests.support.service import KEYS, USE_KEY, Lab, Service, temporary_lab

Airlab = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Lab, Service]]:
    """One AirLab with both keys for the tests of this file."""
    with temporary_lab("fake", environment=KEYS) as lab:
        lab.fault("small", echo=True)
        with lab.serve(key=USE_KEY) as service:
            yield lab, service


@pytest.fixture
def airlab(running: tuple[Lab, Service], call: Call) -> Airlab:
    lab, service = running
    return lambda *arguments: call(lab, *arguments, AIRLAB_PORT=service.url.rpartition(":")[2])


def test_sessions_are_listed_found_shown_renamed_and_removed(running: tuple[Lab, Service], airlab: Airlab) -> None:
    _, service = running
    said(service, "words to find \x1b[2J", session_id="cli/one")
    said(service, "other", session_id="cli two")

    listed = airlab("sessions", "list").stdout.splitlines()
    assert [line.split("Z ")[1].split() for line in listed[:2]] == [
        ["2", "cli", "two", "other"],
        ["2", "cli/one", "words", "to", "find", "[2J"],
    ]
    found = airlab("sessions", "list", "--search", "words", "--json")
    assert [row["session_id"] for row in json.loads(found.stdout)] == ["cli/one"]
    shown = airlab("sessions", "show", "cli/one")
    assert "user: words to find \\u001b[2J\n" in shown.stdout
    assert airlab("sessions", "rename", "cli/one", "Mine").stdout == "cli/one is called Mine\n"
    assert json.loads(airlab("sessions", "show", "cli/one", "--json").stdout)["name"] == "Mine"
    assert airlab("sessions", "rm", "cli/one", "cli two").returncode == 0
    gone = airlab("sessions", "show", "cli/one")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "no session 'cli/one'" in gone.stderr


def test_an_export_is_printed_or_written_whole(running: tuple[Lab, Service], airlab: Airlab) -> None:
    lab, service = running
    said(service, "hello", session_id="export", system_prompt="Be brief.")
    line = {"messages": [{"role": role, "content": "hello"} for role in ("user", "assistant")]}

    # Into a file, since what it prints is bytes.
    file = lab.folder / "out.jsonl"
    written = airlab("export", "export", "--output", str(file))
    assert (written.returncode, json.loads(file.read_text())) == (0, line)
    airlab("export", "--system", "--output", str(file))
    assert json.loads(file.read_text())["messages"][0] == {"role": "system", "content": "Be brief."}
    before = file.read_text()
    failed = airlab("export", "nobody", "--output", str(file))
    assert (failed.returncode, file.read_text()) == (1, before)
    assert "no session 'nobody'" in failed.stderr
    assert list(lab.folder.glob(".*.part")) == []
    assert json.loads(lab.run("export", AIRLAB_PORT=service.url.rpartition(":")[2]).stdout) == line
