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

from tests.support.service import BOUND_S, ROOT, Lab, Service

SHOWN_AT = "http://127.0.0.1:8080"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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


@pytest.mark.parametrize(("place", "command"), [pytest.param(*pair, id=pair[0]) for pair in examples()])
def test_example_answers_as_a_reader_expects(shipped: Service, place: str, command: str) -> None:
    """A reader pastes them one by one."""
    if command.startswith("curl"):
        argv = [*shlex.split(command.replace("\\\n", " ").replace(SHOWN_AT, shipped.url)), "-sS", "--fail-with-body"]
    else:
        argv = [sys.executable, "-m", "app", *shlex.split(command, comments=True)[1:]]
    environment = {
        "PATH": os.environ["PATH"],
        "AIRLAB_PORT": shipped.url.rpartition(":")[2],
        "AIRLAB_MANIFEST": str(shipped.log_file.with_name("airlab.yaml")),
    }
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BOUND_S, check=False)

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
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_page_that_readme_names_is_there() -> None:
    """A link into nowhere is the first thing a new user meets."""
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())

    assert [link for link in links if not (ROOT / Path(link)).exists()] == []
