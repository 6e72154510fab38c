"""The only writer of Live: takes a changed input the one way in, and makes the result the snapshot in force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app.devices.probe import Host
from app.fleet.fleet import Fleet
from app.live.resolve import resolve
from app.live.snapshot import Live, Overrides, Snapshot
from app.manifest.schema import Manifest
from app.settings import Settings
from app.weights.inventory import Inventory, take_inventory


def models_dir(settings: Settings) -> Path:
    """Where model files lie: ``models/`` beside the manifest."""
    return settings.home / "models"


def look_for_weights(manifest: Manifest, settings: Settings) -> Inventory:
    """The declared files that are on disk now."""
    return take_inventory(models_dir(settings), (m.filename for m in manifest.models.values() if m.filename))


def first_snapshot(manifest: Manifest, settings: Settings, host: Host) -> Snapshot:
    """What the inputs give at start. Raises SettingsError."""
    return resolve(manifest, settings, host, Overrides(), look_for_weights(manifest, settings), generation=1)


class Reload:
    """Owns the inputs that can change while AirLab runs."""

    def __init__(self, live: Live, fleet: Fleet, settings: Settings, host: Host) -> None:
        """The snapshot in ``live`` is taken as it is; ``commit`` tells the fleet."""
        self._live, self._fleet, self._settings, self._host = live, fleet, settings, host
        self._overrides = Overrides()

    def commit(self) -> None:
        """Tell the fleet what is in force."""
        snapshot = self._live.current
        self._fleet.want(snapshot.models, max_loaded=snapshot.profile.section.max_loaded)

    @property
    def overrides(self) -> Overrides:
        """What was set by request since the start."""
        return self._overrides

    def override(self, overrides: Overrides) -> None:
        """Set what ranks above the file, until the service stops."""
        self._overrides = overrides
        self._renew()

    def choose_model(self, key: str) -> None:
        """Make ``key`` the current model."""
        self.override(replace(self._overrides, chosen_model=key))

    def look_again(self) -> None:
        """Look whether model files came or went."""
        self._renew()

    def _renew(self) -> None:
        old = self._live.current
        weights = look_for_weights(old.manifest, self._settings)
        new = resolve(old.manifest, self._settings, self._host, self._overrides, weights, generation=old.generation + 1)
        if replace(new, generation=old.generation) != old:
            self._live.current = new
            self.commit()
