"""What lies in ``models/``: which of the declared files are there. Does not look inside them."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from app.engines.base import WeightsId

Inventory = Mapping[str, WeightsId]
"""By file name, as the manifest writes it; a file that is not there is not in it."""


def take_inventory(models_dir: Path, names: Iterable[str]) -> Inventory:
    """Look for these files, one ``stat`` each; what is no regular file counts as missing."""
    found = {}
    for name in names:
        path = models_dir / name
        try:
            info = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(info.st_mode):
            found[name] = WeightsId(path, info.st_size, info.st_mtime_ns)
    return found
