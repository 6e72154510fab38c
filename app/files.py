"""Small files: replaced so that whoever reads one, also after a crash, finds all of the old one or all of the new one.

Read so that nothing that lies there instead of one, such as a FIFO, makes anybody wait.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path


def read_regular(file: Path, *, most_bytes: int) -> tuple[bytes, int]:
    """What a small regular file holds, and its permissions; one byte more than ``most_bytes`` is read of a longer one.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(file))
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            return opened.read(most_bytes + 1), stat.S_IMODE(mode)
    finally:
        os.close(descriptor)


def replace_file(
    file: Path,
    data: bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    last: Callable[[], None] | None = None,
) -> None:
    """Write beside, flush to the disk, rename over. The file itself is replaced, not what it may link to.

    Args:
        file: What is replaced.
        data: What it then holds.
        mode: Its permissions.
        owner: User and group that it is given to, each as far as we may.
        last: Called when all is on the disk, right before the rename; what it raises leaves the old file in place.

    Raises:
        OSError: It could not be written; the old file is as it was, and nothing is left beside it.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as written:
            if owner is not None:
                _give(descriptor, *owner)
            os.fchmod(descriptor, mode)
            written.write(data)
            written.flush()
            os.fsync(descriptor)
        if last is not None:
            last()
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    # The new file is in its place by now, and some file systems of networks cannot flush a folder.
    with contextlib.suppress(OSError):
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _give(descriptor: int, user: int, group: int) -> None:
    # One by one: who may not give a file to another user may still give it to a group of their own.
    for ids in ((user, -1), (-1, group)):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, *ids)
