"""What a manifest may say, and whoever wrote it should know: allowed, since only they can tell whether it is meant.

Pure. What is never right is a problem, and the business of ``schema.py`` and ``crosscheck.py``.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from app.manifest.schema import Manifest

_PRIVATE_NAMES = (
    *(".local", ".localhost", ".localdomain", ".internal", ".lan", ".home", ".home.arpa", ".intranet", ".private"),
    *(".svc", ".test"),  # Kubernetes leaves its domain away, or says .cluster.local
)
"""How names end that the public DNS does not have: RFC 6761, RFC 6762, RFC 8375, and habit."""


def cautions(manifest: Manifest) -> list[str]:
    """A sentence for each, with the place and what to do."""
    return [
        f"models.{key}.remote: the key in {model.remote.key_env} is sent to {model.remote.url} without encryption, so "
        "whoever is on the way can read it; to fix: use https, or a server in your own network"
        for key, model in manifest.models.items()
        if model.remote is not None and model.remote.key_env is not None and _is_open(model.remote.url)
    ]


def _is_open(url: str) -> bool:
    """Whether what is sent there may cross networks that are not one's own, for all to read."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removesuffix(".")
    if parts.scheme == "https":
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        # A name without a dot is looked up in one's own domain alone.
        return "." in host and not host.endswith(_PRIVATE_NAMES)
