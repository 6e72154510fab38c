"""Two snapshots -> what the change from one to the other would do, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import BaseModel

from app.engines.base import RunSpec, WeightsId
from app.fleet.spec import ModelSpec
from app.live.snapshot import Snapshot
from app.manifest.schema import Tuning
from app.policy.compare import loosened
from app.units import format_bytes

_SHOWN_CHARS = 80
_RUN_KEYS = {
    *Tuning.model_fields,
    *("filename", "context_length", "kind", "adapters", "mmproj", "draft_model", "draft_tokens", "on"),
}
"""What shows in the run, and only there: a value that a profile or the environment overrides changes nothing."""
_SECTIONS = ("defaults", "chat", "finetuned", "tools", "policy")


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One setting, before and after, as it is shown to people."""

    setting: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.old} -> {self.new}"


Changes = tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What comes, goes, restarts, or changes in place."""

    add: tuple[str, ...] = ()
    """Models that were not there."""
    remove: tuple[str, ...] = ()
    """Models that go: they finish what they have and stop."""
    restart: Mapping[str, Changes] = field(default_factory=dict)
    """Models that finish what they have and start anew at the next request, with what makes them."""
    update: Mapping[str, Changes] = field(default_factory=dict)
    """Models of which something changes that needs no restart."""
    settings: Changes = ()
    """What else changes, at once."""
    at_next_start: Changes = ()
    """What is read at start only and stays as it is until then."""
    needs_care: tuple[str, ...] = ()
    """Why somebody should look twice: most models removed, or tools allowed more."""

    @property
    def is_empty(self) -> bool:
        """True when nothing would change."""
        return self == Plan()

    def lines(self) -> Iterator[str]:
        """The plan in words, a line each."""
        yield from (f"add {key}" for key in self.add)
        yield from (f"remove {key}: finishes what it has, then stops" for key in self.remove)
        for key, changes in self.restart.items():
            yield f"restart {key} if it is loaded: {'; '.join(map(str, changes))}"
        for key, changes in self.update.items():
            yield f"update {key} in place: {'; '.join(map(str, changes))}"
        yield from (f"set {change}" for change in self.settings)
        yield from (f"at the next start only: {change}" for change in self.at_next_start)
        yield from (f"look twice: {reason}" for reason in self.needs_care)

    def to_json(self) -> dict[str, Any]:
        """The plan for programs."""

        def shown(changes: Changes) -> list[dict[str, str]]:
            return [{"setting": change.setting, "old": change.old, "new": change.new} for change in changes]

        return {
            "add": list(self.add),
            "remove": list(self.remove),
            "restart": {key: shown(changes) for key, changes in self.restart.items()},
            "update": {key: shown(changes) for key, changes in self.update.items()},
            "settings": shown(self.settings),
            "at_next_start": shown(self.at_next_start),
            "needs_care": list(self.needs_care),
        }


def make_plan(old: Snapshot, new: Snapshot) -> Plan:
    """What the change from ``old`` to ``new`` does."""
    both = [key for key in new.models if key in old.models]
    remove = tuple(key for key in old.models if key not in new.models)
    restart = {key: changes for key in both if (changes := _run_changes(old.models[key].run, new.models[key].run))}
    update = {key: changes for key in both if (changes := _described_changes(old.models[key], new.models[key]))}
    return Plan(
        tuple(key for key in new.models if key not in old.models),
        remove,
        restart,
        update,
        (*_choices(old, new), *(c for name in _SECTIONS for c in _section_changes(name, old, new))),
        tuple(_section_changes("server", old, new)),
        (*_mass_removal(remove, old), *map(_printable, loosened(old.policy, new.policy))),
    )


def _mass_removal(remove: tuple[str, ...], old: Snapshot) -> Iterator[str]:
    if len(remove) * 2 > len(old.models):
        yield f"{len(remove)} of {len(old.models)} models would be removed"


def _choices(old: Snapshot, new: Snapshot) -> Iterator[FieldChange]:
    """What follows from several settings together."""
    if old.profile.name != new.profile.name:
        yield FieldChange("profile", old.profile.name, new.profile.name)
    if old.chosen_model != new.chosen_model:
        yield FieldChange("current model", old.chosen_model, new.chosen_model)
    before, after = old.profile.section.max_loaded, new.profile.section.max_loaded
    if before != after:
        yield FieldChange("max_loaded", str(before), str(after))


def _run_changes(old: RunSpec, new: RunSpec) -> Changes:
    pairs = ((each.name, getattr(old, each.name), getattr(new, each.name)) for each in fields(RunSpec))
    return tuple(FieldChange(name, _shown(a), _shown(b)) for name, a, b in pairs if a != b)


def _described_changes(old: ModelSpec, new: ModelSpec) -> Changes:
    before, after = (spec.section.model_dump(exclude=_RUN_KEYS) for spec in (old, new))
    return tuple(_differences("", before, after))


def _section_changes(name: str, old: Snapshot, new: Snapshot) -> Iterator[FieldChange]:
    before, after = (getattr(snapshot.manifest, name).model_dump() for snapshot in (old, new))
    yield from _differences(name, before, after)


def _differences(path: str, old: Any, new: Any) -> Iterator[FieldChange]:
    """Every setting that differs, by its path; a list counts as one setting."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))
    elif old != new:
        yield FieldChange(path, _shown(old), _shown(new))


def _shown(value: Any) -> str:
    """A value for people: short, with units, and nothing that a terminal would obey."""
    match value:
        case None:
            return "not set"
        case bool():
            return str(value).lower()
        case WeightsId():
            text = f"{value.path.name} ({format_bytes(value.size_bytes)}, {value.modified_ns // 1_000_000_000})"
        case BaseModel():
            text = str(value.model_dump())
        case list() | tuple() | frozenset():
            text = f"[{', '.join(sorted(map(_shown, value)) if isinstance(value, frozenset) else map(_shown, value))}]"
        case _:
            text = str(value)
    text = _printable(text)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 3]}..."


def _printable(text: str) -> str:
    """The text without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)
