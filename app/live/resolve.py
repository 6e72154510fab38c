"""The five inputs -> Snapshot. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.devices.probe import Host
from app.devices.profiles import choose_profile
from app.fleet.spec import model_specs
from app.live.snapshot import Overrides, Snapshot
from app.manifest.load import Loaded
from app.policy.rules import Policy
from app.settings import Settings
from app.weights.inventory import Inventory


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a snapshot follows from: file, environment, host, overrides, weights on disk."""

    loaded: Loaded
    settings: Settings
    host: Host
    weights: Inventory
    policy: Policy
    """What the file says of tools, its links resolved when it was read: one moved later changes nothing."""
    overrides: Overrides = field(default_factory=Overrides)


def resolve(inputs: Inputs, *, generation: int) -> Snapshot:
    """What should be in force.

    Raises:
        SettingsError: The environment forces a profile that the manifest has not, or no profile fits this host.
    """
    manifest, settings, overrides = inputs.loaded.manifest, inputs.settings, inputs.overrides
    profile = choose_profile(manifest.profiles, inputs.host, forced=settings.profile)
    forced_layers = settings.n_gpu_layers if overrides.gpu_layers is None else overrides.gpu_layers
    models = model_specs(manifest, profile, inputs.host, inputs.weights, forced_gpu_layers=forced_layers)
    chosen = overrides.chosen_model if overrides.chosen_model in models else None
    chosen = chosen or profile.section.default_model or manifest.default_model
    names = {alias: key for key, spec in models.items() for alias in spec.section.aliases}
    names |= {key: key for key in models} | {"default": chosen}
    prompt = manifest.defaults.system_prompt if overrides.system_prompt is None else overrides.system_prompt
    digest, tools_on, unseen = inputs.loaded.digest, overrides.tools_on, inputs.weights.problem
    return Snapshot(
        generation, digest, manifest, profile, chosen, models, prompt, inputs.policy, tools_on, names, unseen
    )
