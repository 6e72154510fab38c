"""Where the model files of an installation lie: the same for the service and for its launcher, which must agree."""

from __future__ import annotations

from pathlib import Path

from app.manifest.schema import Manifest
from app.settings import Settings
from app.weights.inventory import HeaderCache, Inventory, take_inventory


def models_dir(settings: Settings) -> Path:
    """Where model files lie: ``models/`` in the home folder, which is the manifest's unless told otherwise."""
    return settings.home / "models"


def finetuned_dir(manifest: Manifest, settings: Settings) -> Path:
    """Where fine-tunes are dropped: a folder below ``models_dir``."""
    return settings.home / manifest.finetuned.directory


def look_for_weights(
    manifest: Manifest, settings: Settings, headers: HeaderCache | None = None, *, read_headers: bool = True
) -> Inventory:
    """What is on disk now; ``headers`` and ``read_headers`` as ``take_inventory`` has them. For a thread."""
    names = (name for model in manifest.models.values() for name in model.file_names)
    return take_inventory(
        models_dir(settings),
        names,
        finetuned_dir=finetuned_dir(manifest, settings),
        remote=manifest.models.values(),
        caches=settings.hub_caches,
        headers=headers,
        read_headers=read_headers,
    )
