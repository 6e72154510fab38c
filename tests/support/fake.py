"""Hands a test the scripted llama-server: a program to point LLAMA_SERVER_PATH at, and the script it follows."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from tests.fake_llama.script import grandchildren_file, parse_script, script_file, starts_file

ENTRY = Path(__file__).resolve().parent.parent / "fake_llama_server.py"


def fake_llama_server_command(folder: Path) -> Path:
    """Write an executable that is the fake llama-server; it stays one process, with the id its parent knows."""
    command = folder / "llama-server"
    # Isolated and without site-packages: it starts faster, and no PYTHONPATH of the test reaches it.
    python = shlex.join([sys.executable, "-I", "-S", str(ENTRY)])
    # AirLab asks for devices at every start: the shell answers, which takes no time.
    listed = r"Available devices:\n  FAKE0: Fake GPU (8192 MiB, 8000 MiB free)\n"
    devices = f'[ "$1" = --list-devices ] && printf "{listed}" && exit'
    command.write_text(f'#!/bin/sh\n{devices}\nexec {python} "$@"\n')
    command.chmod(0o755)
    return command


def write_fault(model_file: Path, **script: object) -> None:
    """Say how the next starts of this model shall go; starts are counted anew.

    The keys are the fields of ``fake_llama.script.Script``, and ``starts``, a list of such dicts for the 1st, 2nd ...
    start. No keys at all make an engine without faults whose starts are counted.

    Raises:
        ValueError: A key is unknown or a value cannot be meant.
    """
    text = json.dumps(script)
    for start in range(1, len(json.loads(text).get("starts", [None])) + 1):
        parse_script(text, start=start)
    starts_file(model_file).unlink(missing_ok=True)
    # In one step: a server may be reading it.
    draft = script_file(model_file).with_suffix(".draft")
    draft.write_text(text)
    draft.replace(script_file(model_file))


def starts_of(model_file: Path) -> int:
    """How often the model was started since its script was written."""
    return starts_file(model_file).stat().st_size if starts_file(model_file).exists() else 0


def grandchildren_of(model_file: Path) -> list[int]:
    """Process ids of the grandchildren that ``fork_setsid_grandchild`` left behind: for the test to end."""
    file = grandchildren_file(model_file)
    return [int(line) for line in file.read_text().split()] if file.exists() else []
