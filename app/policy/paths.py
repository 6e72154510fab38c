"""The paths that no tool ever touches, and how they meet a root: pure, compared name by name, no disk."""

from __future__ import annotations

from pathlib import PurePosixPath

from app.policy import windows
from app.tools.base import Protected

PROTECTED: tuple[Protected, ...] = (
    Protected(PurePosixPath("/"), "exact"),
    *(
        Protected(PurePosixPath(path), "tree")
        for path in ("/etc", "/proc", "/sbin", "/usr/sbin", "/boot", "/sys", "/dev", "/run", "/var/run")
    ),
)
"""The system's own. ``/`` means exactly itself: everything is below it. ``/usr/sbin`` is what ``/sbin`` links to, and
``/run`` what ``/var/run`` does, where Docker's socket lies."""

PROTECTED_UNDER_WSL: tuple[Protected, ...] = (
    Protected(windows.mounted("C:\\"), "exact"),
    *(
        Protected(windows.mounted(path), "tree")
        for path in (r"C:\Windows", r"C:\Program Files", r"C:\Program Files (x86)")
    ),
)
"""Windows's own, as WSL2 shows it. These names are compared as Windows does: see ``windows.py``."""


def protecting(*private: PurePosixPath) -> tuple[Protected, ...]:
    """The built-in list and AirLab's own places: its state, its manifest, its models."""
    return (*PROTECTED, *(Protected(path, "tree") for path in private))


def overlap(one: PurePosixPath, other: PurePosixPath) -> bool:
    """True when one of the two holds the other, or they are the same."""
    return one == other or one in other.parents or other in one.parents
