"""Paths as a person types or pastes them, and files that are written for a person."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from app.errors import AirLabError


def local_path(text: str) -> Path:
    """A path as typed: quotes and backslashes as in a shell, ``~`` for home. Raises AirLabError."""
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise AirLabError(f"{text!r} is no path: {exc}") from exc
    # Unquoted spaces are meant: there is nothing else that could follow.
    return Path(words[0] if len(words) == 1 else text).expanduser()


def new_file(text: str, *, named_after: str, suffix: str) -> Path:
    """The file to write: as typed, else in the current folder and named after what is in it.

    Raises:
        AirLabError: It is there already, or its folder is not: nothing is ever overwritten.
    """
    name = re.sub(r"[^\w.-]+", "-", named_after).strip("-.")[:80] or "conversation"
    path = local_path(text) if text else Path(f"{name}{suffix}")
    if path.exists():
        raise AirLabError(f"{path} is there already, and nothing is overwritten; name another file")
    if not path.parent.is_dir():
        raise AirLabError(f"there is no folder {path.parent}; name a file in one that is there")
    return path
