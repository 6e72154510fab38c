"""The tool ``copy_file``."""

from __future__ import annotations

import os
import stat

from app.tools.base import AbsolutePath, ChangedPath, Confinement, ToolProblem, tool
from app.tools.worker import change, fs
from app.tools.worker.text import size_in_words

_OPEN_TO_OTHERS = 0o755
"""The permissions that a copy may keep of its source: nobody but the owner may write, and no set-id bit stays."""


@tool(risk="write")
def copy_file(
    source: AbsolutePath, dest: ChangedPath, overwrite: bool = False, *, inside: Confinement
) -> dict[str, object]:
    """Copy one file. The folder of the copy must exist.

    source: the absolute path of the file.
    dest: the absolute path of the copy, its name included.
    overwrite: whether a file that is there already is replaced.
    """
    content, mode = _read(source, inside)
    with fs.open_place(inside, dest) as place, change.answering(dest):
        old = change.existing_file(inside, place, dest) if overwrite else None
        change.write(place, content, mode=mode & _OPEN_TO_OTHERS, overwrite=old is not None)
    return {"status": "ok"}


def _read(source: str, inside: Confinement) -> tuple[bytes, int]:
    """All of the source, and its permissions."""
    _refuse_folder(source, inside)
    most = inside.limits.write_bytes
    with fs.open_file(inside, source) as opened, os.fdopen(opened.descriptor, "rb", closefd=False) as file:
        content = file.read(most + 1)
        mode = os.fstat(opened.descriptor).st_mode
    if len(content) > most:
        limit = f"at most {size_in_words(most)} are written at a time (policy.limits.write)"
        raise ToolProblem("too_large", f"{source} is too large to copy: {limit}. Ask the user.")
    return content, stat.S_IMODE(mode)


def _refuse_folder(source: str, inside: Confinement) -> None:
    with fs.open_to_look(inside, source) as found:
        if stat.S_ISDIR(os.fstat(found.descriptor).st_mode):
            fs.refuse_to_take(inside, found.path, source)
            raise ToolProblem("not_regular_file", f"{source} is a folder. Copy the files in it one by one.")
