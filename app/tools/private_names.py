"""Names of files and folders that no tool touches, whoever allows it. Pure.

Imports the standard library only: the worker process loads this file too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

PRIVATE_NAMES: tuple[tuple[str, ...], ...] = (
    (".ssh",),
    (".env",),
    (".envrc",),
    (".git", "hooks"),
    (".git", "config"),
    (".git", "modules"),
    (".gitconfig",),
    ("docker.sock",),
    *((name,) for name in (".profile", ".login", ".bashrc", ".bash_profile", ".bash_login", ".bash_logout")),
    *((name,) for name in (".zshrc", ".zprofile", ".zshenv", ".zlogin", ".zlogout", ".kshrc", ".cshrc", ".tcshrc")),
    (".config", "fish"),
)
"""Names that hold secrets, or commands that somebody's shell or git will run; never touched, wherever they stand."""

_OF_PRIVATE_NAMES = frozenset(part for name in PRIVATE_NAMES for part in name)


def private_name(path: PurePosixPath, *, changes: bool = False) -> str | None:
    """The name, at or above ``path``, that no tool touches; or, with ``changes``, that none changes."""
    return is_private(path.parts, changes=changes)


def is_private(names: Sequence[str], *, changes: bool = False) -> str | None:
    """The same for a path's names, outer before inner; no private name is longer than two of them."""
    # Any case: some file systems make no difference, and nobody calls anything else so.
    parts = tuple(map(str.casefold, names))
    variant = next((part for part in parts if part.startswith(".env.")), None)
    if variant is not None or _OF_PRIVATE_NAMES.isdisjoint(parts):
        return variant  # None, as nearly always
    # A folder that is renamed takes what is private in it along, under a name that is not.
    if changes and any(len(name) > 1 and parts[-1] == name[0] for name in PRIVATE_NAMES):
        return parts[-1]
    # A .git that is moved or written anew brings hooks and a config of its own.
    for name in (*PRIVATE_NAMES, *(((".git",),) if changes else ())):
        if any(parts[start : start + len(name)] == name for start in range(len(parts) - len(name) + 1)):
            return "/".join(name)
    return None
