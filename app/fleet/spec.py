"""Manifest + profile + host + inventory -> one ModelSpec for each key. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from app.devices.probe import Host
from app.devices.profiles import ProfileChoice
from app.engines.base import Fit, RunSpec, WeightsId
from app.fleet.companions import NOBODY, Companions, companion_problem, companions_of, draft_name
from app.fleet.dropped import dropped_models
from app.manifest.engine_sections import DockerEngineSection, EngineSection
from app.manifest.schema import Manifest, ModelSection, Numa, OverrideSection, RemoteSection, ToolMode
from app.weights.gguf import GgufFacts
from app.weights.inventory import Inventory, WeightsFile
from app.weights.preview import Preview

_T = TypeVar("_T")
_DEFAULT_SLOTS, _REMOTE_SLOTS = 1, 16


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
    facts: GgufFacts | None = None
    """What the header of its weights says; None while that was not read, or cannot be."""
    weights_bytes: int = 0
    """All files of it together; 0 where they are missing."""
    problem: str | None = None
    """Why its files, as they are, cannot be started; None where they can, or where the weights are missing."""
    companions: Companions = NOBODY
    """The files beside its weights."""
    draft_name: str | None = None
    """The draft model's file that the manifest names for this host, below models/."""

    @property
    def unread_files(self) -> tuple[WeightsId, ...]:
        """Those of its files whose headers were not looked into, and matter for the memory that it takes."""
        beside = (self.companions.mmproj, self.companions.draft)
        unread = tuple(file.id for file in beside if file is not None and file.facts is None)
        own = self.run.weights if self.facts is None else None
        return (own, *unread) if own is not None else unread

    @property
    def modalities(self) -> tuple[str, ...] | None:
        """What it takes, ``text`` first; None for a model elsewhere, of which nobody here knows."""
        if self.is_remote:
            return None
        mmproj = self.companions.mmproj
        if mmproj is None:
            return ("text",)
        # Unread, it is taken for what most are.
        projector = mmproj.facts.projector if mmproj.facts else None
        return ("text", *(projector.modalities if projector else ("image",)))

    @property
    def remote(self) -> RemoteSection:
        """The server that it runs on; asked only of a model ``is_remote``."""
        if self.section.remote is None:
            raise RuntimeError(f"{self.key} runs here")
        return self.section.remote

    @property
    def is_remote(self) -> bool:
        """Whether it runs on another server: it needs no file, no place and no memory here."""
        return self.section.remote is not None

    @property
    def can_be_downloaded(self) -> bool:
        """Whether it is not on disk, and could be."""
        return self.run.weights is None and bool(self.section.hf_repo or self.section.download_url)

    @property
    def lacks_companion(self) -> bool:
        """Whether its projector or its draft model is not on disk, and could be in the repository that it is from."""
        lacks = (self.section.mmproj and not self.companions.mmproj) or (self.draft_name and not self.companions.draft)
        return bool(lacks and self.section.hf_repo)

    @property
    def upstream_name(self) -> str:
        """What its server calls it."""
        return (self.section.remote.model if self.section.remote else None) or self.key

    @property
    def where(self) -> str:
        """The address of the server that it runs on."""
        return self.remote.url

    @property
    def device(self) -> str:
        """Where its layers lie, in the owner's words; "auto" where llama-server decides."""
        if self.is_remote:
            return f"remote ({self.where})"
        match self.run.gpu_layers:
            case None:
                return "auto"
            case 0:
                return "CPU"
            case -1:
                return "GPU (all layers)"
            case layers:
                return f"Hybrid ({layers} layers)"


def with_fit(spec: ModelSpec, fit: Fit) -> ModelSpec:
    """The model as it is started, with numbers for all that was left open."""
    run = replace(spec.run, context_length=fit.context_length, slots=fit.slots)
    return replace(spec, run=replace(run, gpu_layers=fit.gpu_layers, threads=fit.threads))


def with_preview(spec: ModelSpec, preview: Preview) -> ModelSpec:
    """The model as it would be once it is downloaded, for whoever asks whether it would fit."""
    return replace(spec, facts=preview.facts, weights_bytes=preview.size_bytes)


def model_specs(
    manifest: Manifest, profile: ProfileChoice, host: Host, weights: Inventory, *, forced_gpu_layers: int | None
) -> Mapping[str, ModelSpec]:
    """One spec for each model of the manifest, then for each that was dropped.

    Of what the file says of a setting, the model's ``on`` for the profile in force comes first, then the model itself,
    then the profile. ``forced_gpu_layers`` (N_GPU_LAYERS, the layers command) wins over all of them.
    """
    dropped = dropped_models(manifest, weights)

    def spec(key: str, model: ModelSection) -> ModelSpec:
        file = weights.file_of(model)
        return ModelSpec(
            key,
            _run_spec(model, profile, host, weights, forced_gpu_layers),
            model,
            f"models/{model.filename}" if model.filename else None,
            model.tool_mode or manifest.chat.tool_mode,
            file.facts if file else None,
            file.all_bytes if file else 0,
            (dropped[key].problem if key in dropped else None) or _problem(model, profile, weights),
            companions_of(model, _own(model, profile), weights),
            draft_name(model, _own(model, profile)),
        )

    sections = manifest.models | {key: model.section for key, model in dropped.items()}
    return {key: spec(key, section) for key, section in sections.items()}


def _own(model: ModelSection, profile: ProfileChoice) -> OverrideSection:
    """What a model says of the profile in force."""
    return model.on.get(profile.name, OverrideSection())


def _problem(model: ModelSection, profile: ProfileChoice, weights: Inventory) -> str | None:
    """What is wrong with its files; None too where the weights are missing, which has words of its own."""
    file = weights.file_of(model)
    if file is None or file.problem is not None:
        return file.problem if file else None
    if file.facts and file.facts.projector is not None:
        return (
            f"{file.id.path.name} holds no model: it is a multimodal projector; to fix: name it as `mmproj` of the "
            "model that it belongs to"
        )
    if file.facts and file.facts.kind not in {None, "model"}:
        return f"{model.filename} holds no model: it says that it is of the type {file.facts.kind!r}"
    return _kind_problem(model, file) or companion_problem(model, _own(model, profile), file.facts, weights)


def _kind_problem(model: ModelSection, file: WeightsFile) -> str | None:
    """Why it cannot serve what the manifest says; llama-server would load it, and answer with nonsense or an error."""
    if file.facts is None:
        return None
    name = file.id.path.name
    if "rerank" in model.kind and file.facts.ranks is False:
        return (
            f"{name} is no reranker, or one that was badly converted: it lacks the head that makes scores (the tensor "
            "cls.weight or cls.output.weight); to fix: take another file, or delete `kind: [rerank]`"
        )
    if file.facts.only_reads and set(model.kind) == {"chat"}:
        fix = "rerank" if file.facts.ranks else "embedding"
        return f"{name} ({file.facts.architecture}) writes no text; to fix: say what it serves, `kind: [{fix}]`"
    return None


def _run_spec(
    model: ModelSection, profile: ProfileChoice, host: Host, weights: Inventory, forced_gpu_layers: int | None
) -> RunSpec:
    base, own = profile.section, _own(model, profile)
    companions = companions_of(model, own, weights)

    def first(*values: _T | None) -> _T | None:
        return next((value for value in values if value is not None), None)

    numa: Numa = first(own.numa, model.numa, base.numa) or "off"
    return RunSpec(
        engine=base.engine,
        kinds=frozenset(model.kind),
        weights=file.id if (file := weights.file_of(model)) else None,
        context_length=_or_open(first(own.context_length, own.n_ctx) or model.context_length),
        slots=_or_open(
            first(own.parallel, model.parallel, None if model.remote else base.parallel) or _default_slots(model)
        ),
        gpu_layers=first(forced_gpu_layers, own.n_gpu_layers, model.n_gpu_layers, base.n_gpu_layers)
        if _can_offload(base.engine, host)
        else 0,
        threads=first(own.n_threads, model.n_threads, base.n_threads)
        or _threads_each(host, base.max_loaded, per_node=numa == "per-node"),
        cache_type=first(own.cache_type, model.cache_type, base.cache_type),
        numa=numa,
        adapters=tuple(adapter.id for adapter in companions.adapters),
        mmproj=companions.mmproj.id if companions.mmproj else None,
        draft_model=companions.draft.id if companions.draft else None,
        draft_tokens=first(own.draft_tokens, model.draft_tokens) if companions.draft else None,
    )


def _can_offload(engine: EngineSection, host: Host) -> bool:
    """A container gets the GPUs that its section names, whatever a llama-server of this host could use."""
    return engine.wants_gpu if isinstance(engine, DockerEngineSection) else host.can_offload


def _default_slots(model: ModelSection) -> int:
    """A server elsewhere has a queue of its own."""
    return _REMOTE_SLOTS if model.remote else _DEFAULT_SLOTS


def _or_open(given: int | Literal["auto"]) -> int | None:
    """A number that is to be found at the start is None until then."""
    return None if given == "auto" else given


def _threads_each(host: Host, engines: int | Literal["auto"], *, per_node: bool) -> int:
    """Threads for one of so many engines, one core left to the rest, at least 1; for an open number as for two.

    Two engines at 2 threads on 2 cores fell from 165 to 21 tokens/s each; at 1 thread each they gave 137. Those that
    keep to a node share its cores with those on the same node only.
    """
    nodes = max(1, len(host.numa_nodes)) if per_node else 1
    return max(1, (host.cores // nodes - 1) // math.ceil((2 if engines == "auto" else engines) / nodes))
