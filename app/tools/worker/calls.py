"""The system calls of files that Python 3.11 has no function for.

Raises OSError as the functions of ``os`` do, and judges nothing.
"""

from __future__ import annotations

import ctypes
import os
import struct

from app.tools.worker import kernel

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x01, 0x02, 0x04, 0x08

_RENAME_NOREPLACE = 1
_AT_EMPTY_PATH, _STATX_BTIME = 0x1000, 0x800
_STATX_BYTES, _MASK_AT, _BTIME_AT = 256, 0, 80
"""Struct statx: its size, and where it keeps what it knows and the time of birth."""


def openat2(folder: int, name: str, flags: int, resolve: int) -> int:
    """Open ``name`` relative to ``folder``, a descriptor; the RESOLVE flags say where it may not lead.

    Raises:
        OSError: EXDEV or ELOOP when it leads there; EAGAIN when something was renamed meanwhile.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return kernel.call("openat2", folder, os.fsencode(name), how, len(how))


def rename_unless_there(from_folder: int, from_name: str, to_folder: int, to_name: str) -> None:
    """Rename a file or folder; what has the new name already is left alone.

    Raises:
        OSError: EEXIST when there is something; EINVAL on file systems that cannot promise to leave it.
    """
    source, dest = os.fsencode(from_name), os.fsencode(to_name)
    kernel.call("renameat2", from_folder, source, to_folder, dest, _RENAME_NOREPLACE)


def born_s(descriptor: int) -> float | None:
    """When a file was made, in seconds since 1970; None where the file system does not keep it."""
    status = ctypes.create_string_buffer(_STATX_BYTES)
    kernel.call("statx", descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, status)
    (known,) = struct.unpack_from("=I", status, _MASK_AT)
    seconds, nanoseconds = struct.unpack_from("=qI", status, _BTIME_AT)
    return float(seconds + nanoseconds / 1e9) if known & _STATX_BTIME else None
