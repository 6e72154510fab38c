"""Folders to try file tools on, and ways to ask them; only tests use it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from app.tools.base import Confinement, Limits, Protected, ToolProblem

SECRET = "the secret of the house"


def root_beside_a_secret(place: Path) -> Path:
    """A folder to open to tools, with another beside it that is not."""
    (place / "outside").mkdir()
    (place / "outside" / "secret.txt").write_text(SECRET)
    (place / "ws").mkdir()
    return place / "ws"


def names_in(folder: Path) -> list[str]:
    """What a folder holds, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def open_to_tools(
    root: Path,
    *,
    may_destroy: bool = True,
    read_only: Iterable[Path] = (),
    protected: Iterable[Path] = (),
    limits: Limits | None = None,
) -> Confinement:
    """A Confinement as workers that write have it: what may be written may be read."""
    writable, readable = PurePosixPath(root), tuple(map(PurePosixPath, read_only))
    return Confinement(
        "fs_write",
        read=(writable, *readable),
        write=(writable,),
        protected=tuple(Protected(PurePosixPath(path), "tree") for path in protected),
        limits=limits or Limits(),
        may_destroy=may_destroy,
    )


def refusal(tool: Callable[..., Any], *args: Any, **more: Any) -> ToolProblem:
    """Why a tool says no; a sentence that can be sent, and that tells nothing of what lies outside."""
    with pytest.raises(ToolProblem) as caught:
        tool(*args, **more)
    caught.value.message.encode()
    assert SECRET not in caught.value.message
    return caught.value


def code_of(tool: Callable[..., Any], *args: Any, **more: Any) -> str:
    """The code of a tool's no."""
    return refusal(tool, *args, **more).code


def fingerprint(folder: Path, *, names_elsewhere: bool = False) -> dict[str, tuple[object, ...]]:
    """All that a tool could change of a folder and of what is below it.

    Args:
        folder: Where to begin.
        names_elsewhere: Files here have more names elsewhere, which tools may take away: that is no change here.
    """
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        more = () if names_elsewhere else (status.st_nlink, status.st_ctime_ns)
        name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
        found[name] = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, content, *more)
    return found
