"""What two keys of a manifest must agree on: names that refer to models, and names that may not clash.

Pure, and asked only once the schema is satisfied; what a single key may hold is the schema's.
"""

from __future__ import annotations

from app.manifest.nodes import Positions
from app.manifest.problems import Path, Problem, nearest, shown, shown_path
from app.manifest.schema import NO_DRAFT, Manifest

RESERVED = "default"
"""The name under which clients ask for whatever the default model is."""


def cross_problems(manifest: Manifest, positions: Positions) -> list[Problem]:
    """Every disagreement between keys of the manifest, with its place in the file."""
    checks = (_references, _rivals, _clashes, _sources, _companions, _hosts)
    return [problem for check in checks for problem in check(manifest, positions)]


def _references(manifest: Manifest, positions: Positions) -> list[Problem]:
    """Names that have to be keys of ``models``."""
    names: list[tuple[Path, str | None]] = [(("default_model",), manifest.default_model)]
    names += [(("profiles", key, "default_model"), profile.default_model) for key, profile in manifest.profiles.items()]
    for key, model in manifest.models.items():
        names.append((("models", key, "base_model"), model.base_model))
        names += [(("models", key, "not_with", index), other) for index, other in enumerate(model.not_with)]
    return [
        _no_such_model(path, name, manifest, positions)
        for path, name in names
        if name is not None and name not in manifest.models
    ]


def _rivals(manifest: Manifest, positions: Positions) -> list[Problem]:
    """Models that cannot be kept apart as the file has it: one from itself, and two that are both to stay loaded."""
    problems = []
    stay = {key for key, model in manifest.models.items() if model.pin and model.preload}
    for key, model in manifest.models.items():
        for index, other in enumerate(model.not_with):
            if other == key:
                message, fix = "a model is always loaded together with itself", "delete it, or name another model"
            elif key in stay and other in stay and not (key in manifest.models[other].not_with and other < key):
                message = f"{shown(key)} and {shown(other)} are both pinned and preloaded, so neither ever leaves"
                fix = "delete pin or preload of one of the two, or this"
            else:
                continue
            problems.append(positions.problem(("models", key, "not_with", index), message, fix=fix))
    return problems


def _no_such_model(path: Path, name: str, manifest: Manifest, positions: Positions) -> Problem:
    keys = tuple(manifest.models)
    by_alias = {alias: key for key, model in manifest.models.items() for alias in model.aliases}
    meant = by_alias.get(name) or nearest(name, keys)
    what = f"{shown(name)} is an alias" if name in by_alias else f"no model has the key {shown(name)}"
    return positions.problem(
        path,
        what + (f"; did you mean `{meant}`?" if meant else ""),
        allowed=_listed(keys),
        fix=f"write {meant}" if meant else "write one of these, or add the model below `models:`",
        suggestion=meant,
    )


def _listed(keys: tuple[str, ...]) -> str:
    return ", ".join(keys[:20]) + (f" and {len(keys) - 20} more keys of models" if len(keys) > 20 else "")


def _clashes(manifest: Manifest, positions: Positions) -> list[Problem]:
    """Names that two models answer to. Case does not tell them apart, as it does not for the people who type them."""
    names: list[tuple[Path, str]] = [(("models", key), key) for key in manifest.models]
    for key, model in manifest.models.items():
        names += [(("models", key, "aliases", index), alias) for index, alias in enumerate(model.aliases)]
    problems: list[Problem] = []
    taken: dict[str, Path] = {}
    for path, name in names:
        if name.casefold() == RESERVED:
            message = f"the name {shown(name)} is reserved: it stands for the default model"
            problems.append(positions.problem(path, message, at_key=True, fix="choose another name"))
        elif name.casefold() in taken:
            other = taken[name.casefold()]
            message = (
                f"the name {shown(name)} is taken already, by {shown_path(other)} on line {positions.key(other).line}"
            )
            problems.append(positions.problem(path, message, at_key=True, fix="choose another name, or delete it"))
        else:
            taken[name.casefold()] = path
    return problems


def _sources(manifest: Manifest, positions: Positions) -> list[Problem]:
    """Models that no weights can be found for. Two that share one file are fine: their settings may differ."""
    fix = "add `filename: NAME.gguf` for a file below models/, or one of the others"
    return [
        positions.problem(
            ("models", key),
            "says nowhere where its weights are",
            at_key=True,
            allowed="filename, hf_repo, download_url or remote",
            fix=fix,
        )
        for key, model in manifest.models.items()
        if not (model.filename or model.hf_repo or model.download_url or model.remote)
    ] + [
        positions.problem(
            ("models", key, name),
            f"says where its weights are, and that {model.remote.url} runs it",
            at_key=True,
            fix="delete this, or delete remote",
        )
        for key, model in manifest.models.items()
        for name in ("filename", "hf_repo", "download_url", "adapters", "mmproj", "draft_model")
        if model.remote and getattr(model, name)
    ]


def _companions(manifest: Manifest, positions: Positions) -> list[Problem]:
    """Files beside a model's own that would do nothing: llama-server would load them, and nobody would use them."""
    problems = []
    for key, model in manifest.models.items():
        for name in ("mmproj", "draft_model"):
            if getattr(model, name) and "chat" not in model.kind:
                message = "is of no use to a model that does not chat"
                fix = "delete this" + ("" if "rerank" in model.kind else ", or write `kind: [chat, embedding]`")
                problems.append(positions.problem(("models", key, name), message, at_key=True, fix=fix))
        drafts = [model.draft_model, *(override.draft_model for override in model.on.values())]
        if model.draft_tokens and not any(name and name != NO_DRAFT for name in drafts):
            message = "says how many tokens a draft model guesses, and no draft_model is named"
            fix = "add `draft_model: NAME.gguf` for a file below models/, or delete this"
            problems.append(positions.problem(("models", key, "draft_tokens"), message, at_key=True, fix=fix))
    return problems


def _hosts(manifest: Manifest, positions: Positions) -> list[Problem]:
    """Overrides for a profile that there is not: they would never apply, and nobody would say so."""
    names = tuple(manifest.profiles)
    problems = []
    for key, model in manifest.models.items():
        for name in (name for name in model.on if name not in names):
            meant = nearest(name, names)
            problems.append(
                positions.problem(
                    ("models", key, "on", name),
                    f"no profile is called {shown(name)}" + (f"; did you mean `{meant}`?" if meant else ""),
                    at_key=True,
                    allowed=", ".join(names),
                    fix=f"write {meant}" if meant else "write one of these, or add the profile below `profiles:`",
                    suggestion=meant,
                )
            )
    return problems
