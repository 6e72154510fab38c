"""What of the file system is mounted into a container, as /proc/self/mountinfo tells. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_ESCAPED = re.compile(r"\\([0-7]{3})")


def mount_points(mountinfo: str) -> frozenset[PurePosixPath]:
    """Where something is mounted; blanks and line breaks in a path are written in octal there."""
    rows = (line.split(" ") for line in mountinfo.splitlines())
    return frozenset(
        PurePosixPath(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), row[4])) for row in rows if len(row) > 5
    )
