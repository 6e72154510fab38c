"""The tool ``create_directory``."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath

from app.tools.base import ChangedPath, Confinement, ToolProblem, parse_path, tool
from app.tools.worker import change, fs

_LEVELS = 32


@tool(risk="write")
def create_directory(path: ChangedPath, parents: bool = False, *, inside: Confinement) -> dict[str, object]:
    """Create a folder.

    path: the absolute path of the new folder.
    parents: whether missing folders on the way are created too; a folder that is there already is then no mistake.
    """
    asked = parse_path(path)
    for folder in _on_the_way(asked, inside) if parents else ():
        _create(folder, inside, may_exist=True)
    _create(asked, inside, may_exist=parents)
    return {"status": "ok", "path": str(asked)}


def _on_the_way(asked: PurePosixPath, inside: Confinement) -> list[PurePosixPath]:
    """The folders between the root and ``asked``, outer before inner."""
    root = inside.root_of(asked)
    between = [] if root is None else [folder for folder in asked.parents if root in folder.parents]
    if len(between) >= _LEVELS:
        raise ToolProblem("invalid_path", f"{asked} is more than {_LEVELS} folders deep. Choose a shorter path.")
    return between[::-1]


def _create(folder: PurePosixPath, inside: Confinement, *, may_exist: bool) -> None:
    with fs.open_place(inside, str(folder)) as place, change.answering(str(folder)):
        try:
            os.mkdir(place.name, change.FOLDER_MODE, dir_fd=place.folder)
        except FileExistsError:
            there = place.look()
            if not (may_exist and there is not None and stat.S_ISDIR(there.st_mode)):
                raise
