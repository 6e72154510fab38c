"""The tool ``get_file_info``."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime

from app.tools.base import AbsolutePath, Confinement, tool
from app.tools.worker import calls, fs


@tool(risk="read")
def get_file_info(path: AbsolutePath, *, inside: Confinement) -> dict[str, object]:
    """Tell a file's or folder's size in bytes, when it was created and modified, and its permissions.

    path: the absolute path. A folder's size is not that of what it holds.
    """
    with fs.open_to_look(inside, path) as found:
        status = os.fstat(found.descriptor)
        born_s = calls.born_s(found.descriptor)
    return {
        "size": status.st_size,
        "created": None if born_s is None else _said(born_s),
        "modified": _said(status.st_mtime),
        "permissions": stat.filemode(status.st_mode),
    }


def _said(time_s: float) -> str | None:
    try:
        return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None  # a file may claim any time, also one beyond the year 9999
