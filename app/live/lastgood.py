"""The manifest that was last in force, on disk: what a start falls back on when the file is broken."""

from __future__ import annotations

from pathlib import Path

from app.errors import ManifestError
from app.files import replace_file
from app.manifest.load import Loaded, read_manifest
from app.settings import Settings


def last_good_file(settings: Settings) -> Path:
    """Where it is kept: in AirLab's own state folder."""
    return settings.state / "last_good.yaml"


def keep_last_good(settings: Settings, loaded: Loaded) -> None:
    """Keep what has just come into force. Raises OSError."""
    replace_file(last_good_file(settings), loaded.text.encode())


def read_last_good(settings: Settings) -> Loaded | None:
    """The manifest last in force; None where there is none, or a newer AirLab refuses it."""
    try:
        return read_manifest(last_good_file(settings))
    except ManifestError:
        return None
