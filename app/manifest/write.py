"""Rewrites the manifest's file: one editor at a time, and the old file or the new one, whatever happens in between.

Knows nothing of what is changed, or why; ``edit.py`` and ``changes.py`` make the text.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import (
    AirLabError,
    ManifestBusyError,
    ManifestError,
    ManifestReadOnlyError,
    ManifestRefusedError,
    SettingsError,
    StorageError,
    StorageFullError,
)
from app.files import replace_file
from app.manifest.load import Loaded, parse_manifest, read_bytes

WAIT_S = 10.0
"""An editor that another one keeps waiting for longer gives up."""
_LOOK_EVERY_S = 0.05
_TRIES = 5
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What renaming over a file gives that is itself a mount.
_MOUNTED = frozenset({errno.EBUSY, errno.EXDEV})


def rewrite(
    file: Path, change: Callable[[Loaded], str], *, check: Callable[[Loaded], None], wait_s: float = WAIT_S
) -> Loaded:
    """Change the manifest's text, and put the result in the place of the file. Blocks: for a thread.

    Args:
        file: The manifest; where it is a link, what it leads to is replaced and the link stays.
        change: Makes the new text of the old one. Called anew when somebody else was faster.
        check: Raises when the result cannot come into force here.
        wait_s: How long other editors may keep this one waiting.

    Returns:
        The manifest as it is now; nothing is written when the text did not change.

    Raises:
        ManifestProblems: The file has problems before any change.
        ManifestRefusedError: It would have problems after it; they show the lines as they would be.
        ManifestReadOnlyError: File, folder or mount do not let it be replaced.
        ManifestBusyError: Others kept changing it, or kept it locked.
        StorageError: It could not be written. The file is as it was.
        AirLabError: Whatever ``change`` raises.
    """
    target = Path(os.path.realpath(file))
    read_bytes(target)  # where there is no file, there may be no folder to lock either
    with _alone(target.parent, file, wait_s):
        for _ in range(_TRIES):
            before = parse_manifest(read_bytes(target), name=str(file))
            with _explained(file):
                _require_writable(target)
            data = _in_bytes(before, change(before))
            after = _checked(data, str(file), check)
            if after.digest == before.digest:
                return after
            with _explained(file):
                if _put(target, data, instead_of=before):
                    return after
    raise ManifestBusyError(f"{file} changes all the time; try again when that is over", retry_after_s=5)


@contextmanager
def _alone(folder: Path, file: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock of all who rewrite manifests in this folder. Raises as ``rewrite`` does.

    The folder itself is locked: it stays the same when the file is replaced, a file beside it would have to be left
    behind, and a folder in which no file can be made cannot get a new manifest either. The lock ends with its process.
    """
    with _explained(file):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ends_s = time.monotonic() + wait_s
        while not _locked(descriptor, file):
            if time.monotonic() >= ends_s:
                words = f"somebody else has been editing the manifest in {folder} for {wait_s:.0f} s; try again later"
                raise ManifestBusyError(words, retry_after_s=5)
            time.sleep(_LOOK_EVERY_S)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, file: Path) -> bool:
    with _explained(file):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _require_writable(target: Path) -> None:
    """Raises OSError where the file was made read-only, although its folder might let it be replaced."""
    os.close(os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _in_bytes(before: Loaded, text: str) -> bytes:
    """The bytes of a new text, with a byte order mark if the file had one: only then its digest is not its text's."""
    plain = hashlib.sha256(before.text.encode()).hexdigest() == before.digest
    return text.encode() if plain else codecs.BOM_UTF8 + text.encode()


def _checked(data: bytes, name: str, check: Callable[[Loaded], None]) -> Loaded:
    """What the new bytes say, once they have passed everything that a start would ask of them."""
    try:
        after = parse_manifest(data, name=name)
        check(after)
    except (ManifestError, SettingsError) as exc:
        words = f"nothing was written, since {name} would not be right any more:\n\n{exc.message}"
        raise ManifestRefusedError(words) from exc
    return after


def _put(target: Path, data: bytes, *, instead_of: Loaded) -> bool:
    """Replace the file, unless somebody has changed it since it was read: then False, and theirs stays."""
    info = target.stat()

    def refuse_if_changed() -> None:
        if hashlib.sha256(read_bytes(target)).hexdigest() != instead_of.digest:
            raise _ChangedError

    try:
        mode, owner = stat.S_IMODE(info.st_mode), (info.st_uid, info.st_gid)
        replace_file(target, data, mode=mode, owner=owner, last=refuse_if_changed)
    except _ChangedError:
        return False
    return True


class _ChangedError(Exception):
    """Somebody else was faster."""


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn what the system says into what to do about it."""
    try:
        yield
    except OSError as exc:
        raise _in_words(exc, file) from exc


def _in_words(exc: OSError, file: Path) -> AirLabError:
    reason = exc.strerror or str(exc)
    if exc.errno in _READ_ONLY:
        return ManifestReadOnlyError(
            f"{file} cannot be changed from here ({reason}): the file and its folder must be writable for the user "
            "that this runs as, and not be mounted read-only. Change that, or edit the file where it comes from: a "
            "running AirLab picks it up by itself"
        )
    if exc.errno in _MOUNTED:
        return ManifestReadOnlyError(
            f"{file} cannot be replaced ({reason}): it is mounted as a single file. Mount its folder instead, or edit "
            "the file where it comes from and restart AirLab, since such a mount may go on showing the old one"
        )
    if exc.errno in _FULL:
        return StorageFullError(f"{file} could not be written ({reason}) and is as it was; make room, then try again")
    return StorageError(f"{file} could not be written: {reason}")
