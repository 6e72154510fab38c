"""The tool ``list_contents``."""

from __future__ import annotations

import itertools
import os

from app.tools.base import AbsolutePath, Confinement, tool
from app.tools.worker import fs, text
from app.tools.worker.walk import ENTRIES


@tool(risk="read")
def list_contents(path: AbsolutePath, show_hidden: bool = False, *, inside: Confinement) -> dict[str, object]:
    """List what a folder holds, by name; names of folders end with "/".

    path: the absolute path of the folder.
    show_hidden: whether names that begin with a dot are listed too.
    """
    with fs.open_folder(inside, path) as folder, os.scandir(folder.descriptor) as entries:
        names = sorted(
            text.shown_name(entry.name) + ("/" if entry.is_dir(follow_symlinks=False) else "")
            for entry in itertools.islice(entries, ENTRIES)
            if show_hidden or not entry.name.startswith(".")
        )
        left_out = f"what comes after {ENTRIES} entries" if next(entries, None) is not None else None
    shown = names[: min(inside.limits.results, text.how_many_fit(names))]
    listing: dict[str, object] = {"items": shown, "total_items": len(names)}
    if len(shown) < len(names):
        listing["note"] = f"truncated: the first {len(shown)} of {len(names)}, by name"
    return listing | text.partial(left_out)
