"""Containers, seen from inside: whether this is one, and what is mounted into it as /proc/self/mountinfo tells."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

_ESCAPED = re.compile(r"\\([0-7]{3})")


def mount_points(mountinfo: str) -> frozenset[PurePosixPath]:
    """Where something is mounted; blanks and line breaks in a path are written in octal there."""
    rows = (line.split(" ") for line in mountinfo.splitlines())
    return frozenset(
        PurePosixPath(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), row[4])) for row in rows if len(row) > 5
    )


def in_container(root: Path = Path("/")) -> bool:
    """Whether Docker or Podman runs this process: each lays a file of its own into the root of what it runs."""
    return any((root / name).exists() for name in (".dockerenv", "run/.containerenv"))
