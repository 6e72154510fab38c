"""Files dropped into the folder for fine-tunes -> models, as if the manifest named them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.manifest.crosscheck import RESERVED
from app.manifest.schema import Manifest, ModelSection
from app.weights.gguf import GgufFacts
from app.weights.inventory import DroppedFile, Inventory

_MAX_KEY_CHARS = 64
_MOST_CONTEXT_TOKENS = 4096
"""What a model gets that says nowhere how much it should: its whole trained context may not fit into memory."""
_NOT_THE_BASES = frozenset({"name", "description", "recommended", "usage", "aliases", "preload", "training_data"})
"""What is said of a base model, and not of what was made from it."""


@dataclass(frozen=True, slots=True)
class DroppedModel:
    """A model that the manifest does not name."""

    section: ModelSection
    problem: str | None
    """Why it cannot start, whatever its files say."""


def dropped_models(manifest: Manifest, weights: Inventory) -> dict[str, DroppedModel]:
    """Models by key, the key made from the file's name; a name that the manifest uses stays the manifest's."""
    taken = {RESERVED, *(key.casefold() for key in manifest.models)}
    taken |= {alias.casefold() for model in manifest.models.values() for alias in model.aliases}
    # A projector is part of a model. One that nobody names is shown, so that it can be said what to do with it.
    named = {file.sidecar.mmproj for file in weights.dropped if file.sidecar is not None}
    models = {}
    for file in weights.dropped:
        if file.name in named:
            continue
        key = _free_key(PurePosixPath(file.name).stem, taken)
        taken.add(key.casefold())
        model = _model(file, manifest, weights)
        aliases = [alias for alias in model.section.aliases if alias.casefold() not in taken]
        taken |= {alias.casefold() for alias in aliases}
        models[key] = DroppedModel(model.section.model_copy(update={"aliases": aliases}), model.problem)
    return models


def _free_key(stem: str, taken: set[str]) -> str:
    key = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:_MAX_KEY_CHARS] or "model"
    number, free = 1, key
    while free.casefold() in taken:
        number += 1
        free = f"{key[: _MAX_KEY_CHARS - 5]}-{number}"
    return free


def _model(file: DroppedFile, manifest: Manifest, weights: Inventory) -> DroppedModel:
    said = file.sidecar or ModelSection()
    found = weights.files.get(file.name)
    facts = found.facts if found else None
    if facts is not None and facts.is_adapter and file.problem is None:
        return _adapter(file.name, said, facts, manifest, weights)
    context = {} if "context_length" in said.model_fields_set else {"context_length": _context_tokens(facts)}
    section = said.model_copy(update={"filename": file.name, "is_finetuned": True, **context})
    return DroppedModel(section, file.problem)


def _context_tokens(facts: GgufFacts | None) -> int:
    return min((facts.context_length if facts else None) or _MOST_CONTEXT_TOKENS, _MOST_CONTEXT_TOKENS)


def _adapter(name: str, said: ModelSection, facts: GgufFacts, manifest: Manifest, weights: Inventory) -> DroppedModel:
    """The base with the adapter laid over it; what the sidecar says wins over what the manifest says of the base."""
    key, problem = (said.base_model, None) if said.base_model else _base_of(facts, manifest.models, weights)
    base = manifest.models.get(key) if key is not None else None
    if base is None:
        fix = f"write `base_model: KEY` into {PurePosixPath(name).with_suffix('.yaml').name} beside it"
        problem = problem or f"its base_model is {key!r}, and airlab.yaml has no model of that key"
        section = said.model_copy(update={"is_finetuned": True, "adapters": [name]})
        return DroppedModel(section, f"{PurePosixPath(name).name} is a LoRA adapter, and {problem}; to fix: {fix}")
    own = {field: getattr(said, field) for field in said.model_fields_set | _NOT_THE_BASES}
    files = {"filename": base.filename, "adapters": [*base.adapters, name]}
    section = base.model_copy(update={**own, **files, "is_finetuned": True, "base_model": key})
    is_there = base.filename in weights.files
    return DroppedModel(section, None if is_there else f"its base model {key} has no file on disk")


def _base_of(facts: GgufFacts, models: Mapping[str, ModelSection], weights: Inventory) -> tuple[str | None, str | None]:
    """The key of the one model whose header bears the name that the adapter's header calls its base, or why none."""
    wanted = {_plain(name) for name in facts.base_names}
    if not wanted:
        return None, "its header does not say of which model"
    keys = []
    for key, model in models.items():
        file = weights.files.get(model.filename or "")
        if file and file.facts and file.facts.name and not model.adapters and _plain(file.facts.name) in wanted:
            keys.append(key)
    match keys:
        case [key]:
            return key, None
        case []:
            return None, f"no model of airlab.yaml is {' or '.join(map(repr, facts.base_names))} by its header"
        case _:
            return None, f"{', '.join(keys)} could all be its base"


def _plain(name: str) -> str:
    """Without what people and converters write differently: case, spaces, dashes."""
    return re.sub(r"[\W_]+", "", name.casefold())
