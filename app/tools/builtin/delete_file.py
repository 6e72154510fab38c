"""The tool ``delete_file``."""

from __future__ import annotations

import os
import stat

from app.tools.base import ChangedPath, Confinement, ToolProblem, tool
from app.tools.worker import change, fs


@tool(risk="destructive")
def delete_file(path: ChangedPath, recursive: bool = False, *, inside: Confinement) -> dict[str, object]:
    """Delete a file or a folder, for good.

    path: the absolute path.
    recursive: whether a folder is deleted with all that is in it; otherwise it must be empty.
    """
    with fs.open_place(inside, path) as place:
        fs.refuse_to_take(inside, place.path, path)
        there = place.look()
        if there is None:
            raise ToolProblem("not_found", f"There is no {path}. Look at what there is with list_contents.")
        if not inside.may_destroy:
            raise ToolProblem("needs_permission", f"{path} would be deleted. Leave it, or ask the user.")
        with change.answering(path):
            _delete(inside, place, path, there.st_mode, recursive=recursive)
    return {"status": "ok"}


def _delete(inside: Confinement, place: fs.Place, path: str, mode: int, *, recursive: bool) -> None:
    if stat.S_ISDIR(mode):
        change.remove_folder(inside, place, path, recursive=recursive)
    elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        os.unlink(place.name, dir_fd=place.folder)
    else:
        raise ToolProblem("not_regular_file", f"{path} is no file, folder or link. It stays as it is.")
