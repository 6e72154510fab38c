"""A program that is asked can fail in any way: the answer is a reason, in time, and nothing of it stays."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from app.devices.ask import Told, ask
from tests.devices.recorded import write_program

NEVER_S = 30


def program(folder: Path, script: str) -> list[str]:
    write_program(folder / "program", script)
    return [str(folder / "program")]


def test_both_outputs_come_back(tmp_path: Path) -> None:
    assert ask(program(tmp_path, "echo one; echo two >&2")) == Told("one\ntwo\n")


def test_arguments_are_passed_as_they_are(tmp_path: Path) -> None:
    assert ask([*program(tmp_path, 'echo "$1"'), "$(id); rm *"]) == Told("$(id); rm *\n")


def test_program_sees_nothing_of_our_environment_but_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AIRLAB_ADMIN_KEY", "HF_TOKEN", "LD_PRELOAD"):
        monkeypatch.setenv(name, "secret" if name != "LD_PRELOAD" else "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    told = ask(program(tmp_path, "/usr/bin/env; pwd")).text
    assert told is not None
    assert "secret" not in told
    assert {"CUDA_VISIBLE_DEVICES=0", "LANG=C", "/"} <= set(told.splitlines())
    assert "LD_PRELOAD" not in told


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 3", "failed with exit code 3: nothing said"),
        ("echo; echo '  no driver  '; exit 9", "failed with exit code 9: no driver"),
        ("kill -SEGV $$", "failed with exit code -11: nothing said"),
        ("printf 'a\\033[2Jb'; exit 1", "failed with exit code 1: a [2Jb"),
        ("while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done", "printed more than 64 KiB"),
    ],
)
def test_failure_is_told_with_its_reason(tmp_path: Path, script: str, why: str) -> None:
    assert ask(program(tmp_path, script), limit_s=NEVER_S) == Told(None, why)


def test_program_that_is_not_there_is_told() -> None:
    assert ask(["/nowhere/nvidia-smi"]) == Told(None, "could not be run: No such file or directory")
    assert ask(["/dev/null"]) == Told(None, "could not be run: Permission denied")
    assert ask(["bad\0name"]) == Told(None, "could not be run: embedded null byte")


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):  # it may go between two looks
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    return True


@pytest.mark.parametrize("closed", ["", "exec >&- 2>&-; "])
def test_program_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, closed: str) -> None:
    """Whether it holds its output open or not; what it started would hold it for ever."""
    pids = tmp_path / "pids"
    script = f"sleep {NEVER_S} & echo $$ $! >{pids}; {closed}sleep {NEVER_S}"
    # Long enough for it to say whom it started, on a busy machine too.
    told = ask(program(tmp_path, f"PATH=/usr/bin:/bin; {script}"), limit_s=2.0)

    assert told.text is None
    assert told.why_not in {"did not answer within 2 s", "did not end within 2 s"}
    deadline_s = time.monotonic() + NEVER_S
    for pid in map(int, pids.read_text().split()):
        while not gone(pid):
            assert time.monotonic() < deadline_s
