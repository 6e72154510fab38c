"""The tool ``list_contents``."""

from __future__ import annotations

import os

from app.tools.base import AbsolutePath, Confinement, tool
from app.tools.worker import fs


@tool(risk="read")
def list_contents(path: AbsolutePath, show_hidden: bool = False, *, inside: Confinement) -> dict[str, object]:
    """List what a folder holds, by name; names of folders end with "/".

    path: the absolute path of the folder.
    show_hidden: whether names that begin with a dot are listed too.
    """
    with fs.open_folder(inside, path) as folder, os.scandir(folder) as entries:
        names = sorted(
            # A name need not be valid UTF-8; what is shown must be.
            os.fsencode(entry.name).decode(errors="replace") + ("/" if entry.is_dir(follow_symlinks=False) else "")
            for entry in entries
            if show_hidden or not entry.name.startswith(".")
        )
    shown = names[: inside.limits.results]
    listing: dict[str, object] = {"items": shown, "total_items": len(names)}
    if len(shown) < len(names):
        listing["note"] = f"truncated: the first {len(shown)} of {len(names)}, by name"
    return listing
