"""Opens what lies below the roots of a Confinement, and nothing else; the kernel judges where a path leads.

Runs in the worker. A path is read, given its root by comparing names, and opened relative to that root by openat2 with
RESOLVE_BENEATH: ``..``, absolute links and folders swapped under us cannot lead out. Checking first and opening then
lost that race in 8 % of reads (measured). What changes things works on the descriptor of the folder that holds them,
as ``open_place`` gives it, and names no path again.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from app.tools.base import Confinement, ToolProblem, parse_path
from app.tools.private_names import private_name
from app.tools.worker import calls, kernel

_BENEATH = calls.RESOLVE_BENEATH | calls.RESOLVE_NO_MAGICLINKS
_HERE = _BENEATH | calls.RESOLVE_NO_SYMLINKS | calls.RESOLVE_NO_XDEV
_NO_WAIT = os.O_NONBLOCK | os.O_NOCTTY
"""NONBLOCK: a FIFO without a writer would hold us. NOCTTY: a terminal must not become ours."""
_TRIES = 4
"""openat2 answers EAGAIN where something was renamed meanwhile: once, and three times more."""

_ADVICE = {
    errno.ENOENT: ("not_found", "There is no {path}. {hint}."),
    errno.ENOTDIR: ("not_a_folder", "{path} is not a folder, or a part of it is not. Use read_file for a file."),
    errno.EXDEV: ("denied", "{path} leads out of the folder {root}. Choose a path under {roots} that stays inside."),
    errno.ELOOP: ("denied", "{path} goes through a link that cannot be followed. Choose another under {roots}."),
    errno.EACCES: ("denied", "The system does not let AirLab use {path}. Choose another under {roots}."),
    errno.EPERM: ("denied", "The system does not let AirLab use {path}. Choose another under {roots}."),
    errno.ENXIO: ("not_regular_file", "{path} is not a regular file. Choose a regular file."),
    errno.ENODEV: ("not_regular_file", "{path} is not a regular file. Choose a regular file."),
    errno.EAGAIN: ("busy", "Folders on the way to {path} are being renamed. Try once more."),
    errno.ENAMETOOLONG: ("invalid_path", "{path} is too long for its file system. Use shorter names."),
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A file or folder that may be used."""

    descriptor: int
    path: PurePosixPath
    """Where it really is, links resolved. Not for the model: its name need not be valid Unicode."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is, or will be, that a tool changes."""

    folder: int
    """The descriptor of the folder that holds it."""
    name: str
    path: PurePosixPath
    """Where it really is, links on the way resolved."""

    def look(self) -> os.stat_result | None:
        """What is there, a link as itself; None when there is nothing."""
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None


def why_unfit() -> str | None:
    """Why file tools cannot be offered on this system, for the operator; None when they can."""
    if sys.platform != "linux":
        return "file tools need Linux 5.6 or newer"
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(calls.openat2(folder, ".", os.O_PATH, _BENEATH))
        Path(f"/proc/self/fd/{folder}").readlink()
    except kernel.Unfit as unfit:
        return str(unfit)
    except OSError as exc:
        return f"file tools need the system call openat2 (Linux 5.6 or newer, not filtered) and /proc: {exc.strerror}"
    finally:
        os.close(folder)
    return None


@contextmanager
def open_file(inside: Confinement, path: str) -> Iterator[Opened]:
    """A regular file, to read from.

    Raises:
        ToolProblem: The path is ill-formed, leads outside, is protected, or is no regular file.
    """
    with _unprotected(inside, path, os.O_RDONLY | _NO_WAIT) as file:
        mode = os.fstat(file.descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise ToolProblem("not_regular_file", f"{path} is a folder. Use list_contents to see what is in it.")
        _refuse_unless_regular(mode, path)
        yield file


@contextmanager
def open_folder(inside: Confinement, path: str) -> Iterator[Opened]:
    """A folder, to list.

    Raises:
        ToolProblem: The path is ill-formed, leads outside, is protected, or is no folder.
    """
    with _unprotected(inside, path, os.O_RDONLY | os.O_DIRECTORY) as folder:
        yield folder


@contextmanager
def open_to_look(inside: Confinement, path: str) -> Iterator[Opened]:
    """A regular file or a folder, to look at from outside: its contents cannot be read through it.

    Raises:
        ToolProblem: The path is ill-formed, leads outside, is protected, or is neither.
    """
    with _unprotected(inside, path, os.O_PATH) as found:
        mode = os.fstat(found.descriptor).st_mode
        if not stat.S_ISDIR(mode):
            _refuse_unless_regular(mode, path)
        yield found


@contextmanager
def open_place(inside: Confinement, path: str) -> Iterator[Place]:
    """Where ``path`` is or would be, below a writable root; nothing need be there, but its folder must.

    Raises:
        ToolProblem: The path is ill-formed, leads outside, is a root, is protected, or may not be changed.
    """
    asked = parse_path(path)
    root = inside.root_of(asked)
    _refuse_unless_writable(inside, asked, path)
    if asked == root:
        raise ToolProblem("denied", f"{path} itself stays as it is. Choose a path below it.")
    hint = "Make it first with create_directory, or choose a folder that exists"
    with _opened(inside, asked.parent, os.O_PATH | os.O_DIRECTORY, hint) as folder:
        place = Place(folder.descriptor, asked.name, folder.path / asked.name)
        # A link on the way may have led to a protected place, or to one that is only for reading.
        _refuse_if_protected(inside, place.path, path, changes=True)
        _refuse_unless_writable(inside, place.path, path)
        yield place


def refuse_to_take(inside: Confinement, place: PurePosixPath, path: str) -> None:
    """Say no where moving, replacing or deleting what is at ``place`` would take a root or a protected place with it.

    Raises:
        ToolProblem: ``denied``.
    """
    if inside.must_stay(place) is not None:
        sentence = f"{path} is, or holds, a place that must stay as it is. Choose something else"
        raise ToolProblem("denied", f"{sentence} under {inside.writable_in_words}.")


def open_below(folder: int, name: str, flags: int) -> int:
    """A descriptor of ``name`` below an open folder, by no link and on no other file system.

    Raises:
        OSError: ELOOP for a link, EXDEV for another file system (a bind mount of the same one too).
    """
    return _patiently(folder, name, flags | _NO_WAIT, _HERE)


@contextmanager
def _unprotected(inside: Confinement, path: str, flags: int) -> Iterator[Opened]:
    with _opened(inside, parse_path(path), flags) as opened:
        # A link inside the root may lead to a protected place inside the root: look at where we really are.
        _refuse_if_protected(inside, opened.path, path)
        yield opened


@contextmanager
def _opened(
    inside: Confinement, asked: PurePosixPath, flags: int, hint: str = "Look at what there is with list_contents"
) -> Iterator[Opened]:
    root = inside.root_of(asked)
    if root is None:
        raise ToolProblem("denied", f"{asked} is outside. Choose a path under {inside.roots_in_words}.")
    try:
        # Policy resolved the root's links: one that stands there now was put there since.
        anchor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            opened = _patiently(anchor, str(asked.relative_to(root)), flags, _BENEATH)
        finally:
            os.close(anchor)
    except OSError as exc:
        code, advice = _ADVICE.get(exc.errno or 0, ("failed", "{path} cannot be opened: " + str(exc.strerror)))
        words = {"path": asked, "root": root, "roots": inside.roots_in_words, "hint": hint}
        raise ToolProblem(code, advice.format(**words)) from exc
    try:
        yield Opened(opened, PurePosixPath(Path(f"/proc/self/fd/{opened}").readlink()))
    finally:
        os.close(opened)


def _patiently(folder: int, name: str, flags: int, resolve: int) -> int:
    for left in reversed(range(_TRIES)):
        try:
            return calls.openat2(folder, name, flags, resolve)
        except BlockingIOError:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def _refuse_if_protected(inside: Confinement, real: PurePosixPath, path: str, *, changes: bool = False) -> None:
    if inside.is_protected(real) or private_name(real, changes=changes) is not None:
        raise ToolProblem("denied", f"{path} is protected. Choose another path under {inside.roots_in_words}.")


def _refuse_unless_writable(inside: Confinement, real: PurePosixPath, path: str) -> None:
    if inside.is_writable(real):
        return
    if not inside.write:
        raise ToolProblem("denied", "Nothing may be changed here. Do without it, or ask the user for a writable root.")
    kind = "outside" if inside.root_of(real) is None else "for reading only"
    raise ToolProblem("denied", f"{path} is {kind}. Choose a path under {inside.writable_in_words}.")


def _refuse_unless_regular(mode: int, path: str) -> None:
    if not stat.S_ISREG(mode):
        raise ToolProblem("not_regular_file", f"{path} is not a regular file. Choose a regular file.")
