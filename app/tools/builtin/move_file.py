"""The tool ``move_file``."""

from __future__ import annotations

import os
import stat

from app.tools.base import ChangedPath, Confinement, ToolProblem, tool
from app.tools.worker import change, fs


@tool(risk="write")
def move_file(
    source: ChangedPath, dest: ChangedPath, overwrite: bool = False, *, inside: Confinement
) -> dict[str, object]:
    """Move or rename a file or a folder. The folder that it goes to must exist.

    source: the absolute path of what to move.
    dest: the absolute path that it gets, its name included.
    overwrite: whether a file that is there already is replaced by the moved file.
    """
    with fs.open_place(inside, source) as old, fs.open_place(inside, dest) as new:
        moved = old.look()
        if moved is None:
            raise ToolProblem("not_found", f"There is no {source}. Look at what there is with list_contents.")
        if stat.S_ISDIR(moved.st_mode):
            # Moved onto the way to a protected place, what is in the folder would take that place.
            fs.refuse_to_take(inside, old.path, source)
            fs.refuse_to_take(inside, new.path, dest)
        elif not stat.S_ISREG(moved.st_mode):
            raise ToolProblem("not_regular_file", f"{source} is a link or no regular file. It stays where it is.")
        with change.answering(dest):
            change.rename(old, new, overwrite=overwrite and _may_replace(inside, new, dest, moved))
    return {"status": "ok"}


def _may_replace(inside: Confinement, new: fs.Place, dest: str, moved: os.stat_result) -> bool:
    there = change.existing_file(inside, new, dest)
    if there is None:
        return False
    if os.path.samestat(there, moved):
        raise ToolProblem("exists", f"{dest} is the file that is to be moved. Choose another name.")
    if not stat.S_ISREG(moved.st_mode):
        raise ToolProblem("exists", f"There is a file at {dest}, which a folder does not replace. Choose another name.")
    return True
