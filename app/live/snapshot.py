"""What is in force: one immutable Snapshot, and the one place that holds the current one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.devices.profiles import ProfileChoice
from app.errors import ModelNotFoundError
from app.fleet.spec import ModelSpec
from app.manifest.schema import Manifest
from app.policy.rules import Policy


@dataclass(frozen=True, slots=True)
class Overrides:
    """What was set by request since the start; it ranks above the file and is gone at a restart."""

    chosen_model: str | None = None
    system_prompt: str | None = None
    gpu_layers: int | None = None
    tools_on: bool = True

    def surviving(self, old: Manifest, new: Manifest) -> Overrides:
        """Those whose key in the file was not edited: a newer word in the file wins over an older one by request."""
        layers_edited = _layers_of(old) != _layers_of(new)
        return Overrides(
            self.chosen_model if old.default_model == new.default_model else None,
            self.system_prompt if old.defaults.system_prompt == new.defaults.system_prompt else None,
            None if layers_edited else self.gpu_layers,
            self.tools_on or old.tools.builtin != new.tools.builtin,
        )


def _layers_of(manifest: Manifest) -> list[object]:
    """Every place that says how many layers a GPU takes."""
    models = [(key, model.n_gpu_layers, model.on) for key, model in manifest.models.items()]
    return [*models, *((key, profile.n_gpu_layers) for key, profile in manifest.profiles.items())]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pure function of five inputs: file, environment, host, overrides, weights on disk."""

    generation: int
    """Grows whenever what is in force changes."""
    digest: str
    """SHA-256 of the manifest's bytes, in hexadecimal."""
    manifest: Manifest
    profile: ProfileChoice
    chosen_model: str
    """Serves when a request names no model: the last switch since start, else the default model."""
    models: Mapping[str, ModelSpec]
    system_prompt: str
    """What /chat puts before a conversation that brings none of its own."""
    policy: Policy
    """What tools may do; looked up at each call."""
    tools_on: bool
    """The server's switch for tools; a request must ask for them besides."""
    names: Mapping[str, str]
    """Every name that a client may use, keys, aliases and ``default``, to its key."""
    weights_problem: str | None = None
    """Why files that were dropped may not be among the models."""

    def key_of(self, name: str | None) -> str:
        """The key that a client's ``model`` field means.

        Raises:
            ModelNotFoundError: No such name; the message lists the keys and the line that would make it one.
        """
        key = self.names.get(name or "default")
        if key is None:
            shown = f"{name:.100}"
            raise ModelNotFoundError(
                f"no model {shown!r}; there are {', '.join(self.models)}. To make it a name of one of them, add "
                f"`aliases: [{shown}]` to that model in airlab.yaml"
            )
        return key


@dataclass(slots=True)
class Live:
    """Holds the snapshot in force. ``reload.py`` writes it; everybody else reads it once for each use."""

    current: Snapshot
