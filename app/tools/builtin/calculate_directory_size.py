"""The tool ``calculate_directory_size``."""

from __future__ import annotations

from app.tools.base import AbsolutePath, Confinement, ToolProblem, tool
from app.tools.worker import fs, text
from app.tools.worker.walk import Walk


@tool(risk="read")
def calculate_directory_size(path: AbsolutePath, max_depth: int = 64, *, inside: Confinement) -> dict[str, object]:
    """Add up the sizes of all files in a folder and below it.

    path: the absolute path of the folder.
    max_depth: how many levels of folders below it are counted; 0 counts the files of the folder alone.
    """
    if max_depth < 0:
        raise ToolProblem("invalid_arguments", "`max_depth` must be 0 or more. Leave it out to count everything.")
    size_bytes = 0
    counted: set[tuple[int, int]] = set()
    with fs.open_folder(inside, path) as folder:
        walk = Walk(inside, folder, max_depth=max_depth)
        for seen in walk:
            status = seen.look() if seen.is_file else None
            # A file with several names takes its room once.
            if status is None or (status.st_nlink > 1 and (status.st_dev, status.st_ino) in counted):
                continue
            if status.st_nlink > 1:
                counted.add((status.st_dev, status.st_ino))
            size_bytes += status.st_size
    deeper = f"folders below level {max_depth}" if walk.is_cut_by_depth else None
    result: dict[str, object] = {"size_bytes": size_bytes, "size_human": text.size_in_words(size_bytes)}
    return result | text.partial(walk.unseen, deeper)
