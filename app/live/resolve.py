"""The five inputs -> Snapshot. Pure."""

from __future__ import annotations

from app.devices.probe import Host
from app.devices.profiles import choose_profile
from app.fleet.spec import model_specs
from app.live.guards import policy_for
from app.live.snapshot import Overrides, Snapshot
from app.manifest.schema import Manifest
from app.settings import Settings
from app.weights.inventory import Inventory


def resolve(
    manifest: Manifest, settings: Settings, host: Host, overrides: Overrides, weights: Inventory, *, generation: int
) -> Snapshot:
    """What should be in force.

    Raises:
        SettingsError: The environment forces a profile that the manifest has not, or the policy cannot come into force.
    """
    profile = choose_profile(manifest.profiles, forced=settings.profile)
    forced_layers = settings.n_gpu_layers if overrides.gpu_layers is None else overrides.gpu_layers
    models = model_specs(manifest, profile, host, weights, forced_gpu_layers=forced_layers)
    chosen = overrides.chosen_model if overrides.chosen_model in models else None
    chosen = chosen or profile.section.default_model or manifest.default_model
    names = {alias: key for key, spec in models.items() for alias in spec.section.aliases}
    names |= {key: key for key in models} | {"default": chosen}
    prompt = manifest.defaults.system_prompt if overrides.system_prompt is None else overrides.system_prompt
    policy = policy_for(manifest, settings.home, settings.state)
    return Snapshot(generation, manifest, profile, chosen, models, prompt, policy, overrides.tools_on, names)
