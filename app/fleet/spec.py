"""Manifest + profile + host + inventory -> one ModelSpec for each key. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from app.devices.probe import Host
from app.devices.profiles import ProfileChoice
from app.engines.base import RunSpec
from app.manifest.schema import Manifest, ModelSection, ToolMode
from app.weights.inventory import Inventory

_T = TypeVar("_T")
_DEFAULT_SLOTS = 1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as it should be on this host."""

    key: str
    run: RunSpec
    section: ModelSection
    """What the manifest says of it, for people."""
    expected_file: str | None
    """Where its file is, or should be, below the manifest's folder; None where the manifest names none."""
    tool_mode: ToolMode
    """How it calls tools."""

    @property
    def device(self) -> str:
        """Where its layers lie, in the owner's words; "auto" where llama-server decides."""
        match self.run.gpu_layers:
            case None:
                return "auto"
            case 0:
                return "CPU"
            case -1:
                return "GPU (all layers)"
            case layers:
                return f"Hybrid ({layers} layers)"


def model_specs(
    manifest: Manifest, profile: ProfileChoice, host: Host, weights: Inventory, *, forced_gpu_layers: int | None
) -> Mapping[str, ModelSpec]:
    """One spec for each model of the manifest; ``forced_gpu_layers`` (N_GPU_LAYERS) wins over the file."""
    return {
        key: ModelSpec(
            key,
            _run_spec(model, profile, host, weights, forced_gpu_layers),
            model,
            f"models/{model.filename}" if model.filename else None,
            model.tool_mode or manifest.chat.tool_mode,
        )
        for key, model in manifest.models.items()
    }


def _run_spec(
    model: ModelSection, profile: ProfileChoice, host: Host, weights: Inventory, forced_gpu_layers: int | None
) -> RunSpec:
    base = profile.section

    def first(*values: _T | None) -> _T | None:
        return next((value for value in values if value is not None), None)

    return RunSpec(
        engine=base.engine,
        kinds=frozenset(model.kind),
        weights=weights.get(model.filename) if model.filename else None,
        context_length=model.context_length,
        slots=first(model.parallel, base.parallel) or _DEFAULT_SLOTS,
        gpu_layers=first(forced_gpu_layers, model.n_gpu_layers, base.n_gpu_layers) if host.can_offload else 0,
        threads=first(model.n_threads, base.n_threads) or _threads_each(host.cores, base.max_loaded),
        cache_type=first(model.cache_type, base.cache_type),
    )


def _threads_each(cores: int, engines: int) -> int:
    """Threads for one of so many engines, one core left to the rest, at least 1.

    Two engines at 2 threads on 2 cores fell from 165 to 21 tokens/s each; at 1 thread each they gave 137.
    """
    return max(1, (cores - 1) // engines)
