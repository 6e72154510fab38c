"""The tool ``write_file``."""

from __future__ import annotations

import stat

from app.tools.base import ChangedPath, Confinement, ToolProblem, tool
from app.tools.worker import change, fs
from app.tools.worker.text import size_in_words


@tool(risk="write")
def write_file(path: ChangedPath, lines: list[str] | str, *, inside: Confinement) -> dict[str, object]:
    """Write a text file, whole: what was in it is gone. Its folder must exist.

    path: the absolute path of the file.
    lines: the lines of the text, or all of it as one text.
    """
    content = _as_bytes(lines)
    most = inside.limits.write_bytes
    if len(content) > most:
        sizes = f"{size_in_words(len(content))}; at most {size_in_words(most)} are written at a time"
        raise ToolProblem("too_large", f"The text takes {sizes}. Write less.")
    with fs.open_place(inside, path) as place, change.answering(path):
        old = change.existing_file(inside, place, path)
        mode = change.FILE_MODE if old is None else stat.S_IMODE(old.st_mode) & 0o777
        change.write(place, content, mode=mode, overwrite=old is not None)
    return {"status": "ok", "bytes_written": len(content)}


def _as_bytes(lines: list[str] | str) -> bytes:
    # Models end lines themselves, or do not: one end is enough.
    text = lines if isinstance(lines, str) else "".join(line.removesuffix("\n") + "\n" for line in lines)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ToolProblem("invalid_arguments", "`lines` is not valid Unicode. Write it as plain text.") from None
