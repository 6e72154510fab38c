"""The tool ``search_files``."""

from __future__ import annotations

from app.tools.base import AbsolutePath, Confinement, tool
from app.tools.worker import fs, text
from app.tools.worker.walk import Walk


@tool(risk="read")
def search_files(
    path: AbsolutePath, pattern: str, recursive: bool = True, max_results: int = 100, *, inside: Confinement
) -> dict[str, object]:
    """Find files by their name.

    path: the absolute path of the folder to look in.
    pattern: what the name must be, such as "*.txt" or "report-??.md".
    recursive: whether folders below it are searched too.
    max_results: how many to list at most.
    """
    matches = text.name_matcher(pattern)
    most = text.capped(max_results, inside.limits.results)
    found: list[str] = []
    with fs.open_folder(inside, path) as folder:
        walk = Walk(inside, folder, max_depth=None if recursive else 0)
        for seen in walk:
            if seen.is_file and matches(seen.entry.name):
                found.append(text.joined(path, seen.below))
                if len(found) > most:
                    break
    return text.listing("files", found, most, walk.unseen)
