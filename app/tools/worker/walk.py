"""Goes through a folder and all below it, within limits, following no link and leaving no file system.

Says afterwards what it did not see, so that a part is never taken for the whole.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.tools.base import Confinement
from app.tools.private_names import private_name
from app.tools.worker import fs

ENTRIES, TIME_S = 50_000, 5.0
"""How many entries one walk looks at, and for how many seconds."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry on the way; good until the next is asked for."""

    folder: int
    """The descriptor of the folder that holds it."""
    entry: os.DirEntry[str]
    below: str
    """Where it is, relative to where the walk began."""
    depth: int
    """Folders between there and it."""

    @property
    def is_folder(self) -> bool:
        """True for a folder itself, not for a link to one."""
        return self.entry.is_dir(follow_symlinks=False)

    @property
    def is_file(self) -> bool:
        """True for a regular file itself, not for a link to one."""
        return self.entry.is_file(follow_symlinks=False)

    def look(self) -> os.stat_result | None:
        """What is there now, a link as itself; None when it is gone."""
        try:
            return os.stat(self.entry.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self) -> int | None:
        """A descriptor to read a regular file from; None when it is none, is gone or may not be read."""
        try:
            opened = fs.open_below(self.folder, self.entry.name, os.O_RDONLY)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(opened).st_mode):
            return opened
        os.close(opened)
        return None


class Walk:
    """One way through a folder: nearest entries first, those of one folder by name. To be gone once."""

    def __init__(self, inside: Confinement, top: fs.Opened, *, max_depth: int | None = None) -> None:
        """Look at nothing yet.

        Args:
            inside: Says what is protected, and so is passed by.
            top: The folder to begin in.
            max_depth: Levels of folders below ``top`` to go into; None: all.
        """
        self._top = top
        self._prefix = str(top.path).rstrip("/")
        self._protected = frozenset(str(entry.path) for entry in inside.protected)
        self._max_depth = max_depth
        self.is_cut_by_depth = False
        """Whether folders were left out because of ``max_depth``."""
        self._left = ENTRIES
        self._end_s = time.monotonic() + TIME_S
        self._unseen: dict[str, None] = {}

    @property
    def unseen(self) -> str | None:
        """What was left out so far, in words; None when nothing was."""
        return ", ".join(self._unseen) or None

    def __iter__(self) -> Iterator[Seen]:
        folders = deque([(".", 0)])
        while folders and not self._is_over():
            below, depth = folders.popleft()
            for seen in self._in_folder(below, depth):
                yield seen
                if not seen.is_folder:
                    continue
                if self._max_depth is not None and depth >= self._max_depth:
                    self.is_cut_by_depth = True
                else:
                    folders.append((seen.below, depth + 1))

    def _in_folder(self, below: str, depth: int) -> Iterator[Seen]:
        try:
            # By its way from the top, not from a descriptor for each level: a worker may hold few.
            folder = fs.open_below(self._top.descriptor, below, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        except OSError as exc:
            self._note(exc)
            return
        try:
            with os.scandir(folder) as entries:
                found = sorted(self._counted(entries), key=lambda entry: entry.name)
            for entry in found:
                seen = Seen(folder, entry, entry.name if below == "." else f"{below}/{entry.name}", depth)
                # The folder is not protected, so that only a place of exactly this name can be.
                place = f"{self._prefix}/{seen.below}"
                if place in self._protected or private_name(PurePosixPath(place)) is not None:
                    self._unseen["a protected place"] = None
                elif self._is_over():
                    return
                else:
                    yield seen
        finally:
            os.close(folder)

    def _counted(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            if not self._left:
                self._unseen[f"what comes after {ENTRIES} entries"] = None
                return
            if self._is_over():
                return
            self._left -= 1
            yield entry

    def _is_over(self) -> bool:
        if time.monotonic() < self._end_s:
            return False
        self._unseen[f"what takes longer than {TIME_S:.0f} s"] = None
        return True

    def _note(self, exc: OSError) -> None:
        if exc.errno == errno.EXDEV:
            self._unseen["another file system"] = None
        else:
            self._unseen["a folder that cannot be opened"] = None
