r"""Windows paths as policy counts them: under WSL2, where drive C: lies at /mnt/c. Pure: nothing is looked up.

One file has many spellings there: any case, both slashes, prefixes such as ``\\?\``, short names (``PROGRA~1``),
streams (``name::$DATA``), dots and blanks at the end of a name. Names are compared as Windows would find them, and a
spelling that only a look at the disk could resolve is not accepted at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from app.tools.base import Protected

_MOUNTS = PurePosixPath("/mnt")
_PREFIX = re.compile(r"[\\/]{2}[?.][\\/]|\\\?\?\\")
_DRIVE = re.compile(r"([A-Za-z]):[\\/]+")
_SHORT = re.compile(r"[^~]{1,8}~[0-9]{1,6}(\.[^.]{0,3})?")
_BEGINS_A_DRIVE = re.compile(r"[A-Za-z]:([\\/]|$)|[\\/]{2}[?.][\\/]|\\\?\?\\")


def looks_like_windows(text: str) -> bool:
    r"""True for what begins as Windows paths do: ``C:\``, ``C:/``, ``\\?\``."""
    return _BEGINS_A_DRIVE.match(text) is not None


def mounted(text: str) -> PurePosixPath:
    r"""Where WSL2 shows a Windows path: ``C:\Windows`` is /mnt/c/Windows.

    Raises:
        ValueError: It is no whole path on a drive, or a spelling that could mean another file.
    """
    rest = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
    drive = _DRIVE.match(rest)
    if drive is None:
        raise ValueError(rf"{text!r} is no whole path on a drive; write one like C:\Users\me")
    names = [name for name in re.split(r"[\\/]+", rest[drive.end() :]) if name]
    for name in names:
        _refuse_odd(name.rstrip(" ."))
    return _MOUNTS.joinpath(drive[1].lower(), *(name.rstrip(" .") for name in names))


def is_protected(path: PurePosixPath, protected: Iterable[Protected]) -> bool:
    """Whether a path as WSL2 shows it is protected, names compared as Windows does; False off the drives.

    A spelling that could mean another file counts as protected.
    """
    if not is_on_drive(path):
        return False
    try:
        for name in path.parts[3:]:
            _refuse_odd(name)
    except ValueError:
        return True
    folded = _folded(path)
    return any(Protected(_folded(entry.path), entry.reach).covers(folded) for entry in protected)


def held(path: PurePosixPath, protected: Iterable[Protected]) -> PurePosixPath | None:
    """A protected place on a drive that lies below ``path``, names compared as Windows does."""
    folded = _folded(path)
    places = (entry.path for entry in protected if is_on_drive(entry.path))
    return next((place for place in places if folded in _folded(place).parents), None)


def is_on_drive(path: PurePosixPath) -> bool:
    """True at and below /mnt/c and its like."""
    return len(path.parts) > 2 and path.parts[:2] == _MOUNTS.parts and re.fullmatch("[a-z]", path.parts[2]) is not None


def _refuse_odd(name: str) -> None:
    if not name or name != name.rstrip(" ."):
        raise ValueError("a name ends with a dot or a blank, which Windows drops; leave it out")
    if ":" in name:
        raise ValueError(f"{name!r} names a stream of a file; name the file alone")
    if _SHORT.fullmatch(name):
        raise ValueError(f"{name!r} may be a short name; write the long one")


def _folded(path: PurePosixPath) -> PurePosixPath:
    # Upper case first, as NTFS does: the dotless i is an I then, and case folding alone would keep them apart.
    return PurePosixPath(*(name.upper().casefold().rstrip(" .") or name for name in path.parts))
