"""Every example that README and docs show is run as it stands, against the manifest as shipped."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import COMMAND_S, ROOT, Lab, Service

SHOWN_AT = "http://127.0.0.1:8080"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "howto").glob("*.md"))]
NOT_RUN = re.compile(r"^\s*(make |export |AIRLAB_HOST=)")
"""Lines that set up a machine: the clean-clone trial and `.ci/run` are their test."""


def examples() -> list[tuple[str, str]]:
    """(page and line, command) of every command in a ``sh`` block; a command may take several lines."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: block.start(1)].count("\n") + 1
            commands = [block[1]] if block[1].startswith("curl") else block[1].splitlines()
            found += [(f"{page.name}:{line}", one) for one in commands if one.strip() and not NOT_RUN.match(one)]
    return found


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """AirLab on the embedded engine, with the manifest as shipped."""
    lab = Lab(tmp_path_factory.mktemp("shipped"), engine="embedded")
    shutil.copy(ROOT / "airlab.yaml", lab.manifest)
    file = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    (lab.folder / "models" / file.name).symlink_to(file)
    (lab.folder / "workspace").mkdir()
    (lab.folder / "workspace" / "notes.txt").write_text("buy milk\n")
    with lab.serve() as service:
        service.until_state("smollm2-135m", "ready")
        yield service


def test_pages_show_examples() -> None:
    """Guards the reading of pages: a change of their form must not leave the examples unread."""
    assert len([command for _, command in examples() if command.startswith("curl")]) >= 14


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_first_pages_say_where_the_program_lies_before_they_call_it_by_its_name(page: str) -> None:
    """A fresh clone has no ``airlab`` on PATH."""
    before, called, _ = (ROOT / page).read_text().partition("`airlab ")

    assert called
    assert "`.venv/bin/airlab`" in before


@pytest.mark.parametrize(("place", "command"), [pytest.param(*pair, id=pair[0]) for pair in examples()])
def test_example_answers_as_a_reader_expects(shipped: Service, place: str, command: str) -> None:
    """A reader pastes them one by one."""
    if command.startswith("curl"):
        argv = [*shlex.split(command.replace("\\\n", " ").replace(SHOWN_AT, shipped.url)), "-sS", "--fail-with-body"]
    else:
        here = command.replace(".venv/bin/airlab", f"{shlex.quote(sys.executable)} -m app")
        here = here.replace("training.jsonl", shlex.quote(str(shipped.log_file.with_name("training.jsonl"))))
        argv = ["bash", "-o", "pipefail", "-c", here]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "AIRLAB_PORT": shipped.url.rpartition(":")[2],
        "AIRLAB_MANIFEST": str(shipped.log_file.with_name("airlab.yaml")),
    }
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )

    assert done.returncode == 0, f"{place}: {done.stdout}{done.stderr}"
    if "stream" in command:
        assert done.stdout.rstrip().endswith(("data: [DONE]", "}")), done.stdout
        assert "error" not in done.stdout.splitlines()[-2]
    elif command.startswith("curl"):
        json.loads(done.stdout)


def test_documented_client_works_as_it_is_shown(shipped: Service) -> None:
    """docs/chat_client.py is what people copy."""
    client = ROOT / "docs" / "chat_client.py"
    environment = {"PATH": os.environ["PATH"], "AIRLAB_URL": shipped.url}
    done = subprocess.run(
        [sys.executable, str(client), "Say hello."],
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    # Against what is stored, and not for words: a small model that is sampled says nothing now and then.
    answer = shipped.http.get("/sessions/docs").raise_for_status().json()["messages"][-1]
    assert (answer["role"], answer["content"].split()) == ("assistant", done.stdout.split())


def test_tutorial_leads_to_training_data(shipped: Service) -> None:
    """Its commands have run above; what they wrote is what a trainer reads."""
    file = shipped.log_file.with_name("training.jsonl")
    [line] = file.read_text().splitlines()
    messages = json.loads(line)["messages"]

    assert [set(message) for message in messages] == [{"role", "content"}] * 4
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["content"] == "Arr, I be Captain Ada!"


def quoted() -> list[tuple[str, str, str]]:
    """(page and line, file, code) of every ``python`` block that begins with the name of a file."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```python\n# (\S+\.py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: block.start(1)].count("\n") + 1
            found.append((f"{page.name}:{line}", block[1], block[2]))
    return found


@pytest.mark.parametrize(("place", "file", "code"), [pytest.param(*each, id=each[0]) for each in quoted()])
def test_quoted_code_is_what_stands_there_or_runs(shipped: Service, place: str, file: str, code: str) -> None:
    """Code of AirLab's is quoted word by word; code of the reader's runs as it is shown."""
    if file.startswith("app/"):
        assert code in (ROOT / file).read_text(), f"{place}: {file} has changed"
        return
    done = subprocess.run(
        [sys.executable, "-c", code.replace(SHOWN_AT, shipped.url)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_that_a_page_names_is_there(page: Path) -> None:
    """A link into nowhere is the first thing a new user meets."""
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []
