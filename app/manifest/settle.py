"""Reads a file that somebody may be writing at this moment: not before it is at rest.

An editor that saves by renaming gives a whole file at once; one that writes in place, or a copy over a network, gives
a growing one, whose first half may be a manifest too.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

from app.manifest.load import read_bytes, unreadable
from app.manifest.problems import ManifestProblems


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells two versions of a file apart without reading it."""

    device: int
    inode: int
    modified_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Quiet:
    """How long a file must not change before it is read; tests shorten them."""

    renamed_s: float = 0.1
    """A file that was put in place whole."""
    written_s: float = 1.0
    """A file that was changed in place."""
    missing_s: float = 2.0
    """A file that is gone is waited for, since some editors delete before they write."""
    most_s: float = 30.0
    """A file that never rests is refused."""


def stamp_of(file: Path) -> Stamp | None:
    """The file's stamp now, links followed; None where it cannot be looked at."""
    try:
        info = os.stat(file)  # noqa: PTH116 # Path.stat costs twice as much, and the watch does this all day
    except (OSError, ValueError):
        return None
    return Stamp(info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size)


async def read_settled(file: Path, known: Stamp | None, quiet: Quiet) -> tuple[bytes, Stamp | None]:
    """The bytes of a file at rest, with their stamp.

    Args:
        file: The manifest.
        known: The stamp of the version that was read last.
        quiet: How long nothing may change.

    Raises:
        ManifestProblems: It is gone for longer than a save takes, cannot be read, or never rests.
    """
    ends_s = time.monotonic() + quiet.most_s
    while time.monotonic() < ends_s:
        before = await _present(file, quiet)
        in_place = known is not None and before is not None and before != known and before.inode == known.inode
        try:
            data = await asyncio.to_thread(read_bytes, file)
            await asyncio.sleep(quiet.written_s if in_place else quiet.renamed_s)
            # The bytes count, too: a clock of two seconds' steps, as on FAT, hides a change.
            again = await asyncio.to_thread(read_bytes, file)
        except ManifestProblems:
            if before is None or stamp_of(file) == before:
                raise
            continue  # deleted or replaced in this very moment
        if again == data and stamp_of(file) == before:
            return data, before
    message = f"is being written without a pause since {quiet.most_s:.0f} s"
    raise unreadable(str(file), message, "save it once, and wait")


async def _present(file: Path, quiet: Quiet) -> Stamp | None:
    """The file's stamp, waiting a moment for a file that is gone; None is left to the read to explain."""
    ends_s = time.monotonic() + quiet.missing_s
    while True:
        stamp = stamp_of(file)
        if stamp is not None or time.monotonic() >= ends_s:
            return stamp
        await asyncio.sleep(0.05)
