"""The tool ``read_file``."""

from __future__ import annotations

import codecs
import json
import os

from app.tools.base import ANSWER_BYTES, AbsolutePath, Confinement, ToolProblem, tool
from app.tools.worker import fs

_LOOKED_AT_FOR_NUL_BYTES = 8192
_ROOM_FOR_THE_REST_BYTES = 1024


@tool(risk="read")
def read_file(path: AbsolutePath, *, inside: Confinement) -> dict[str, object]:
    """Read a text file. Only the beginning of a long file is read, and the end says so.

    path: the absolute path of the file.
    """
    limit_bytes = inside.limits.read_bytes
    with fs.open_file(inside, path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        raw = file.read(limit_bytes + 1)
        # A file that grows meanwhile is as long as it is now.
        size_bytes = max(os.fstat(descriptor).st_size, len(raw))
    text = _fitting(_decoded(raw[:limit_bytes], whole=len(raw) <= limit_bytes, path=path))
    shown_bytes = len(text.encode())
    lines = text.count("\n") + (not text.endswith("\n") and bool(text))
    text = text.removeprefix("\ufeff")
    if shown_bytes < size_bytes:
        text += f"\n[truncated: the first {shown_bytes} of {size_bytes} bytes]"
    return {"content": text, "lines": lines}


def _decoded(raw: bytes, *, whole: bool, path: str) -> str:
    if b"\0" not in raw[:_LOOKED_AT_FOR_NUL_BYTES]:
        try:
            # Where it is cut, a character may be cut too: that is not the file's fault.
            return codecs.getincrementaldecoder("utf-8")().decode(raw, final=whole)
        except UnicodeDecodeError:
            pass
    raise ToolProblem("not_text", f"{path} is not UTF-8 text, so it cannot be shown. Choose a text file.")


def _fitting(text: str) -> str:
    """Cut a text until it fits into an answer: written as JSON, a character may take six bytes."""
    room = ANSWER_BYTES - _ROOM_FOR_THE_REST_BYTES
    while (length := len(json.dumps(text, ensure_ascii=False).encode())) > room:
        text = text[: len(text) * room // length - 1]
    return text
