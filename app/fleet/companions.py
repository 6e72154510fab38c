"""The files that go with a model's own: adapters, a multimodal projector, a draft model; and what is wrong with them.

Pure. What llama-server would find out only after minutes of loading, or never say, is said here from the headers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.manifest.schema import NO_DRAFT, ModelSection, OverrideSection
from app.weights.gguf import GgufFacts
from app.weights.inventory import Inventory, WeightsFile
from app.weights.vocabulary import differences


@dataclass(frozen=True, slots=True)
class Companions:
    """What lies beside a model's weights, as far as it is there."""

    adapters: tuple[WeightsFile, ...] = ()
    mmproj: WeightsFile | None = None
    draft: WeightsFile | None = None


NOBODY = Companions()
"""Of most models."""
_Check = Callable[[str, GgufFacts, GgufFacts | None], str | None]


def companions_of(model: ModelSection, own: OverrideSection, weights: Inventory) -> Companions:
    """The files that are there; ``own`` is what the model says of the profile in force."""
    draft = draft_name(model, own)
    return Companions(
        tuple(weights.files[name] for name in model.adapters if name in weights.files),
        weights.files.get(model.mmproj or ""),
        weights.files.get(draft or ""),
    )


def draft_name(model: ModelSection, own: OverrideSection) -> str | None:
    """The draft model's file on this host, below models/; None for no draft model."""
    name = own.draft_model or model.draft_model
    return None if name == NO_DRAFT else name


def companion_problem(
    model: ModelSection, own: OverrideSection, base: GgufFacts | None, weights: Inventory
) -> str | None:
    """What is wrong with any of them, for a model of these facts, and what to do."""
    return next(_problems(model, own, base, weights), None)


def _problems(model: ModelSection, own: OverrideSection, base: GgufFacts | None, weights: Inventory) -> Iterator[str]:
    draft = draft_name(model, own)
    checks: list[tuple[_Check, str, str]] = [*((_adapter, "LoRA adapter", name) for name in model.adapters)]
    checks += [(_mmproj, "multimodal projector", model.mmproj)] if model.mmproj else []
    checks += [(_draft, "draft model", draft)] if draft else []
    for check, what, name in checks:
        file = weights.files.get(name)
        if file is None:
            fetched = bool(model.hf_repo) and check is not _adapter
            pull = "; `airlab models pull`, or a switch to it, fetches it if its hf_repo has it" if fetched else ""
            yield f"its {what} is not on disk; to fix: put it at models/{name}{pull}"
        elif file.problem is not None:
            yield file.problem
        elif file.facts is not None and (problem := check(name, file.facts, base)):
            yield problem


def _adapter(name: str, facts: GgufFacts, base: GgufFacts | None) -> str | None:
    if facts.adapter_type != "lora":
        return f"{name} is no LoRA adapter"
    if base is not None and base.architecture != facts.architecture:
        return f"{name} is a LoRA adapter for {facts.architecture}, and the model is {base.architecture}"
    return None


def _mmproj(name: str, facts: GgufFacts, _base: GgufFacts | None) -> str | None:
    # Whether it is of this model's width llama-server alone can say: each kind keeps that in another tensor.
    if facts.projector is None:
        return (
            f"{name} is no multimodal projector but {_is(facts)}; to fix: name the file that comes beside the model, "
            "such as mmproj-F16.gguf"
        )
    return None


def _draft(name: str, facts: GgufFacts, base: GgufFacts | None) -> str | None:
    if facts.projector is not None or facts.kind not in {None, "model"} or facts.vocabulary is None:
        return f"{name} is no draft model but {_is(facts)}; to fix: name a small model of the same family"
    vocabulary = base.vocabulary if base else None
    differs = differences(facts.vocabulary, vocabulary) if vocabulary else None
    if differs is None:
        return None
    return (
        f"{name} cannot guess tokens for this model: it {differs}; to fix: name a model of the same family and "
        "vocabulary, or delete draft_model"
    )


def _is(facts: GgufFacts) -> str:
    """What a file is, for people."""
    if facts.projector is not None:
        return "a multimodal projector"
    if facts.kind not in {None, "model"}:
        return f"of the type {facts.kind!r}"
    if facts.vocabulary is None:
        return f"a file of the architecture {facts.architecture!r} without a vocabulary"
    return f"a model ({facts.architecture})"
