"""What must exist before a snapshot comes into force: the folders that tools may see."""

from __future__ import annotations

from pathlib import Path

from app.errors import SettingsError
from app.policy.rules import Policy


def make_roots(policy: Policy) -> None:
    """Make the folders that are missing. For a thread.

    Raises:
        SettingsError: One is no folder and cannot be made.
    """
    for root in policy.roots:
        try:
            Path(root.path).mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SettingsError(f"{root.path} is no folder and cannot be made: {exc.strerror}") from exc
