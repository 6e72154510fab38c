"""Machines that are not here, from what their kernel and their tools print, laid out for the probe to look at.

Each folder of ``hosts/`` is one: ``cpuinfo.txt`` is the first processor's part of /proc/cpuinfo, ``topology.txt`` what
tells the others apart (``grep -E '^(processor|physical id|core id)' /proc/cpuinfo | paste - - -``), ``system.txt`` the
other files (``grep -H ''``), ``nvidia-smi.txt``, ``nvidia-smi-free.txt`` (asked for free memory) and
``list-devices.txt`` what the programs answer, where there are any, ``arguments.txt`` what llama-server gets there for
the shipped models, and ``containers.txt`` where it runs in containers, and with what.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.devices import gpus
from app.devices.probe import Host, probe_host

HOSTS = Path(__file__).with_name("hosts")
_BOARD = {"dl380-t4": "dl380"}
"""A card more does not change the rest of a machine."""


@dataclass(frozen=True)
class Recorded:
    """One machine: its /proc and /sys below ``root``, its programs in ``programs``."""

    root: Path
    programs: Path

    def look(self, monkeypatch: pytest.MonkeyPatch, *, embedded: bool = False) -> Host:
        """What the probe says of it, with its llama-server or with the embedded engine."""
        monkeypatch.setenv("PATH", str(self.programs))
        monkeypatch.setattr(gpus, "_WSL_FOLDER", str(self.programs))
        engine = (str(self.programs / "llama-server"),)
        return probe_host(can_offload=not embedded, engine=() if embedded else engine, root=self.root)


def lay_out(name: str, folder: Path) -> Recorded:
    """Lay the machine out below ``folder``."""
    board = HOSTS / _BOARD.get(name, name)
    machine = Recorded(folder / "root", folder / "programs")
    for line in (board / "system.txt").read_text().splitlines():
        path, _, said = line.partition(":")
        file = machine.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as opened:
            opened.write(f"{said}\n")
    (machine.root / "proc/cpuinfo").write_text(_cpuinfo(board))
    machine.programs.mkdir()
    answers = HOSTS / name
    if (answers / "nvidia-smi.txt").exists():
        free = f'case "$1" in *memory.free*) exec /bin/cat {answers}/nvidia-smi-free.txt; esac'
        write_program(machine.programs / "nvidia-smi", f"{free}\nexec /bin/cat {answers}/nvidia-smi.txt")
    if (answers / "list-devices.txt").exists():
        write_program(machine.programs / "llama-server", f"exec /bin/cat {answers}/list-devices.txt")
    return machine


def _cpuinfo(board: Path) -> str:
    """/proc/cpuinfo as a whole: one part for each processor."""
    first = (board / "cpuinfo.txt").read_text()
    parts = []
    for line in (board / "topology.txt").read_text().splitlines():
        part = first
        for name, number in re.findall(r"(processor|physical id|core id)\s*: (\d+)", line):
            part = re.sub(rf"^({name}\s*): \d+$", rf"\1: {number}", part, flags=re.MULTILINE)
        parts.append(part)
    return "\n".join([*parts, ""])


def write_program(file: Path, script: str) -> None:
    """A program that the shell runs."""
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
