"""The tool ``read_file``."""

from __future__ import annotations

import os

from app.tools.base import AbsolutePath, Confinement, ToolProblem, tool
from app.tools.worker import fs, text


@tool(risk="read")
def read_file(path: AbsolutePath, *, inside: Confinement) -> dict[str, object]:
    """Read a text file. Only the beginning of a long file is read, and the end says so.

    path: the absolute path of the file.
    """
    limit_bytes = inside.limits.read_bytes
    with fs.open_file(inside, path) as opened, os.fdopen(opened.descriptor, "rb", closefd=False) as file:
        raw = file.read(limit_bytes + 1)
        # A file that grows meanwhile is as long as it is now.
        size_bytes = max(os.fstat(opened.descriptor).st_size, len(raw))
    content = text.decoded(raw[:limit_bytes], whole=len(raw) <= limit_bytes)
    if content is None:
        raise ToolProblem("not_text", f"{path} is not UTF-8 text, so it cannot be shown. Choose a text file.")
    content = _fitting(content)
    shown_bytes = len(content.encode())
    lines = content.count("\n") + (not content.endswith("\n") and bool(content))
    content = content.removeprefix("\ufeff")
    if shown_bytes < size_bytes:
        content += f"\n[truncated: the first {shown_bytes} of {size_bytes} bytes]"
    return {"content": content, "lines": lines}


def _fitting(content: str) -> str:
    """Cut a text until an answer has room for it."""
    while (length := text.json_bytes(content)) > text.ROOM_BYTES:
        content = content[: len(content) * text.ROOM_BYTES // length - 1]
    return content
