"""What a Confinement opens of the file system, laid down as Landlock rules: roots, less what is protected below them.

Landlock only ever adds: a rule on a folder holds for all below, and nothing below can be taken out again. So a folder
with something protected in it gets no rule; each thing beside the protected one gets its own. What appears in such a
folder later is closed, until a new worker looks again. Compared is what a path leads to, not how it is written: another
spelling, a link or a second mount leads to the same.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath

from app.tools.base import Confinement
from app.tools.worker.kernel import Unfit
from app.tools.worker.landlock import CHANGE, OF_A_FILE, READ, READ_DIR, Ruleset
from app.tools.worker.private import private_below

MOST_RULES = 5_000
"""How many entries beside protected ones get a rule each; 8 microseconds a rule, for each worker."""

_Identity = tuple[int, int]
_Stamp = tuple[int, ...] | None

_GONE = (FileNotFoundError, NotADirectoryError, PermissionError)


class Ground:
    """What rules were laid on; it may be replaced while a worker waits, and then its rules point to what was there."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._stamps: dict[str, _Stamp] = {}

    def note(self, path: str, *, contents: bool = False) -> None:
        """Remember what is at a path; with ``contents``, also what a folder holds."""
        self._stamps[path] = _stamp(path, contents=contents)

    def has_moved(self) -> bool:
        """True when something else is there now, or something is no longer, or is at last.

        All of it is looked at before each call: what was missed would be open to code that nobody asked to leave it
        alone. Few folders for AirLab's own tools; each one below the roots for code of somebody else's, as many as
        ``private_below`` has looked at: 2 to 4 microseconds a folder (measured: 1,000 in 2 ms, 100,000 in 250 ms).
        """
        # A stamp of three parts is that of a folder with its contents.
        return any(
            _stamp(path, contents=stamp is not None and len(stamp) > 2) != stamp for path, stamp in self._stamps.items()
        )


def grant_roots(rules: Ruleset, inside: Confinement, ground: Ground) -> None:
    """Open the roots of a Confinement to its worker, as far as its kind may use them.

    Raises:
        Unfit: Too much lies beside something protected, or below a root that has to be looked through.
        OSError: A root that has to be looked through cannot be.
    """
    if inside.kind == "net":
        return
    changing = () if inside.kind == "fs_read" else inside.write
    reading = [root for root in (*inside.read, *inside.write) if root not in changing]
    closed = [(str(entry.path), entry.reach) for entry in inside.protected]
    if reading:
        private = _private(inside, reading, ground, changes=False)
        _Walk(rules, READ, ground, closed, private).grant(map(str, reading))
    if changing:
        # The innermost root counts: one to read below one to write must not become writable with it.
        closed += [(str(root), "tree") for root in reading]
        private = _private(inside, changing, ground, changes=True)
        _Walk(rules, CHANGE, ground, closed, private).grant(map(str, changing))


def _private(inside: Confinement, roots: Iterable[PurePosixPath], ground: Ground, *, changes: bool) -> list[str]:
    """What has a private name below these roots, where the kernel has to close it."""
    if not inside.foreign:
        return []
    visit = partial(ground.note, contents=True)
    return [path for root in roots for path in private_below(str(root), visit, changes=changes)]


class _Walk:
    """Lays the rules of one kind of right."""

    def __init__(
        self,
        rules: Ruleset,
        rights: int,
        ground: Ground,
        closed: Iterable[tuple[str, str]],
        private: Iterable[str],
    ) -> None:
        self._rules, self._rights, self._ground = rules, rights, ground
        self._left = MOST_RULES
        self._trees: set[_Identity] = set()
        self._places: set[_Identity] = set()
        ways: set[str] = set()
        for path, reach in closed:
            led_to, identity = _follow(path)
            ways.update(_parents(path), _parents(led_to))
            if identity is not None:
                (self._trees if reach == "tree" else self._places).add(identity)
        self._above = _identities(ways)
        ways_to_private: set[str] = set()
        for path in private:
            ways_to_private.update(_parents(path))
            self._trees |= _identities([path])
        # The secret is what such a file holds. Were its name hidden too, no repository could be listed, for its .git.
        self._listed = _identities(ways_to_private) - self._above
        self._above |= self._listed

    def grant(self, roots: Iterable[str]) -> None:
        for root in roots:
            self._ground.note(root)
            if not any(_follow(parent)[1] in self._trees for parent in _parents(root)):
                # Policy resolved the root's links: one that stands there now was put there since.
                self._enter(root, None, root)

    def _enter(self, name: str, folder: int | None, path: str) -> None:
        try:
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except _GONE:
            return
        try:
            self._lay(opened, path)
        finally:
            os.close(opened)

    def _lay(self, opened: int, path: str) -> None:
        found = os.fstat(opened)
        identity = (found.st_dev, found.st_ino)
        if identity in self._trees:
            return
        if stat.S_ISDIR(found.st_mode):
            if identity in self._above or identity in self._places:
                if identity in self._listed - self._places:
                    self._rules.allow(opened, READ_DIR)
                self._lay_below(opened, path)
            else:
                self._rules.allow(opened, self._rights)
        elif stat.S_ISREG(found.st_mode) and identity not in self._places:
            self._rules.allow(opened, self._rights & OF_A_FILE)

    def _lay_below(self, opened: int, path: str) -> None:
        self._ground.note(path, contents=True)
        with suppress(*_GONE):
            listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened)
            try:
                names = os.listdir(listed)  # noqa: PTH208 # of a descriptor, not of a path
            finally:
                os.close(listed)
            self._left -= len(names)
            if self._left < 0:
                raise Unfit(
                    f"{path} holds something protected beside more than {MOST_RULES:,} other entries, each of which "
                    "needs a rule of its own: move what is protected, or the root, elsewhere"
                )
            for name in names:
                self._enter(name, opened, f"{path}/{name}")


def _follow(path: str) -> tuple[str, _Identity | None]:
    """Where a path really leads, and what is there."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(path), None
    try:
        found = os.fstat(opened)
        # As the kernel knows it: fewer calls than to look at each part of the path, a dozen times for each worker.
        return os.readlink(f"/proc/self/fd/{opened}"), (found.st_dev, found.st_ino)  # noqa: PTH115
    finally:
        os.close(opened)


def _identities(paths: Iterable[str]) -> set[_Identity]:
    return {identity for _, identity in map(_follow, paths) if identity is not None}


def _parents(path: str) -> list[str]:
    parents = []
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        parents.append(path)
    return parents


def _stamp(path: str, *, contents: bool) -> _Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116 # as above
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns) if contents else (found.st_dev, found.st_ino)
