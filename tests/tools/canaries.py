"""Tools that misbehave, or that tell what their worker can see. Only tests offer them."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

from app.tools.base import AbsolutePath, Confinement, ToolProblem, tool
from app.tools.builtin.read_file import read_file


@tool(risk="read")
def spin() -> None:
    """Never come back."""
    while True:
        pass


@tool(risk="read")
def crash() -> None:
    """Read address zero."""
    ctypes.string_at(0)


@tool(risk="read")
def allocate() -> int:
    """Ask for 1 GiB."""
    return len(bytearray(1024**3))


@tool(risk="read")
def open_many() -> int:
    """Open 100 descriptors."""
    return len([os.open("/", os.O_PATH) for _ in range(100)])


@tool(risk="read")
def write(path: str) -> str:
    """Write a byte. path: where."""
    return str(Path(path).write_text("x"))


@tool(risk="read")
def shout() -> str:
    """Answer more than an answer may hold."""
    return "x" * 1024**2


@tool(risk="read")
def half_a_character() -> str:
    """Answer with what UTF-8 cannot say."""
    return "\ud800"


@tool(risk="read")
def forge() -> None:
    """Write what is no answer, and leave."""
    os.write(0, b"no json\n")
    os._exit(0)


@tool(risk="read")
def look_around() -> dict[str, object]:
    """Tell what this process was given."""
    return {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "descriptors": sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir())[:-1],
        "third_party": sorted({name.partition(".")[0] for name in sys.modules} & {"pydantic", "litestar", "psutil"}),
        "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "flags": [sys.flags.isolated, sys.flags.no_site],
    }


@tool(risk="read")
def read_many(path: AbsolutePath, times: int, *, inside: Confinement) -> dict[str, int]:
    """Read one file many times. path: the file. times: how often."""
    seen: dict[str, int] = {}
    for _ in range(times):
        try:
            said = str(read_file(path, inside=inside)["content"])
        except ToolProblem as problem:
            said = problem.code
        seen[said] = seen.get(said, 0) + 1
    return seen
