"""What the kernel counts for a process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

from app.devices.resident import resident
from app.units import MIB


def test_own_pages_are_told_from_mapped_files(tmp_path: Path) -> None:
    """A model's file is mapped, and the kernel could drop it: of its own an engine has the rest."""
    file = tmp_path / "weights"
    file.touch()
    os.truncate(file, 20 * MIB)  # written, the bytes would have been memory of our own
    before = resident(os.getpid())
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0  # every page was touched
        during = resident(os.getpid())
    assert before is not None
    assert during is not None
    assert during.resident_bytes - before.resident_bytes > 18 * MIB
    assert during.own_bytes - before.own_bytes < 15 * MIB


def test_process_that_is_gone_has_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert resident(child.pid) is None
