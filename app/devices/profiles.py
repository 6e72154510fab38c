"""Chooses the host's profile and says why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import SettingsError
from app.manifest.schema import ProfileSection


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """The profile in force, and the reason in words."""

    name: str
    section: ProfileSection
    reason: str


def choose_profile(profiles: Mapping[str, ProfileSection], *, forced: str | None) -> ProfileChoice:
    """The forced profile, else the first that matches.

    Raises:
        SettingsError: The forced name is not in the manifest.
    """
    if forced is not None:
        if forced not in profiles:
            raise SettingsError(f"AIRLAB_PROFILE={forced}: no such profile; the manifest has {', '.join(profiles)}")
        return ProfileChoice(forced, profiles[forced], "forced by AIRLAB_PROFILE or --profile")
    name, section = next(iter(profiles.items()))
    return ProfileChoice(name, section, "the first that matches: any")
