"""Manifests for tests, from plain values and not from a file."""

from __future__ import annotations

import json
from typing import Any

from app.manifest.load import Loaded, parse_manifest


def loaded(default_model: str, models: dict[str, Any], **more: Any) -> Loaded:
    """What reading a manifest with these sections would give."""
    sections = {"version": 1, "default_model": default_model, "models": models} | more
    return parse_manifest(json.dumps(sections, indent=1).encode(), name="airlab.yaml")
