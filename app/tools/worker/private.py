"""Finds what has a private name below a root, for code that nobody can ask to leave it alone.

AirLab's own tools look at every name before they open it. A program or function of somebody else's does not, and
Landlock knows files, not names: so the names are looked for before the wall is built, and what has one is closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from app.tools.private_names import is_private
from app.tools.worker.kernel import Unfit

MOST_SEEN = 200_000
"""How many entries of a root are looked at; about a microsecond each, for each worker."""


def private_below(root: str, visit: Callable[[str], None], *, changes: bool) -> Iterator[str]:
    """Paths of what no tool touches, or with ``changes`` none changes; nothing of what is below one of them.

    Args:
        root: Where to look; links are not followed.
        visit: Told of each folder before it is looked through.
        changes: As ``private_name`` takes it.

    Raises:
        Unfit: There are more entries than are looked at.
        OSError: A part of it could not be looked at though it is there.
    """
    folders, left = [root], MOST_SEEN
    while folders:
        folder = folders.pop()
        visit(folder)
        parent = folder.rpartition("/")[2]
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    left -= 1
                    path = f"{folder}/{entry.name}"
                    if is_private((parent, entry.name), changes=changes):
                        yield path
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # gone, or closed to its worker as well
        if left < 0:
            raise Unfit(
                f"{root} holds more than {MOST_SEEN:,} files and folders, and each has to be looked at for private "
                "names before a program may run there: choose a smaller root"
            )
