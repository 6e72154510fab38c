"""Chooses the host's profile and says why: for every rule of every profile whether it holds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from app.devices.gpus import Gpu
from app.devices.probe import Host
from app.errors import SettingsError
from app.manifest.host_sections import MatchSection
from app.manifest.schema import ProfileSection
from app.units import format_bytes


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """Whether one rule of a profile holds for the host, and why."""

    rule: str
    """Its key in the manifest."""
    matched: bool
    why: str

    def __str__(self) -> str:
        """As people read it: ``sockets: there are 2, as asked``."""
        return f"{self.rule}: {self.why}"


@dataclass(frozen=True, slots=True)
class ProfileOutcome:
    """What came of comparing one profile with the host."""

    name: str
    rules: tuple[RuleOutcome, ...]

    @property
    def matched(self) -> bool:
        """True when every rule holds."""
        return all(rule.matched for rule in self.rules)

    @property
    def why(self) -> str:
        """Every rule that holds; of a profile that does not match, those that do not."""
        return "; ".join(str(rule) for rule in self.rules if rule.matched == self.matched)


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """The profile in force, the reason in words, and how every profile of the manifest fared."""

    name: str
    section: ProfileSection
    reason: str
    considered: tuple[ProfileOutcome, ...] = ()


def choose_profile(profiles: Mapping[str, ProfileSection], host: Host, *, forced: str | None) -> ProfileChoice:
    """The forced profile, else the first all of whose rules hold. What is not known of the host holds for no rule.

    Raises:
        SettingsError: The forced name is not in the manifest, or no profile matches.
    """
    if forced is not None and forced not in profiles:
        raise SettingsError(f"AIRLAB_PROFILE={forced}: no such profile; the manifest has {', '.join(profiles)}")
    considered = tuple(ProfileOutcome(name, tuple(_rules(section, host))) for name, section in profiles.items())
    if forced is not None:
        return ProfileChoice(forced, profiles[forced], "forced by AIRLAB_PROFILE or --profile", considered)
    for outcome in considered:
        if outcome.matched:
            reason = f"the first that matches ({outcome.why})"
            return ProfileChoice(outcome.name, profiles[outcome.name], reason, considered)
    missed = "\n".join(f"  {outcome.name}: {outcome.why}" for outcome in considered)
    raise SettingsError(
        f"no profile of the manifest matches this host:\n{missed}\n"
        "Add one for every host as the last below `profiles:`\n  generic: {match: any}\n"
        "or force one with AIRLAB_PROFILE or --profile."
    )


def _rules(section: ProfileSection, host: Host) -> Iterator[RuleOutcome]:
    match = section.match
    if match == "any":
        yield RuleOutcome("any", matched=True, why="every host is fine")
        return
    if match.cpu is not None:
        yield _cpu(match.cpu, host.cpu_model)
    if match.sockets is not None:
        yield _sockets(match.sockets, host.sockets)
    if match.min_memory is not None:
        yield _memory(match.min_memory, host.memory_bytes)
    if match.isa is not None:
        missing = [name for name in match.isa if name not in host.isa]
        why = f"the processor does not show {', '.join(missing)}" if missing else f"it has {', '.join(match.isa)}"
        yield RuleOutcome("isa", not missing, why)
    yield from _gpu_rules(match, host)


def _cpu(part: str, model: str | None) -> RuleOutcome:
    if model is None:
        return RuleOutcome("cpu", matched=False, why="the processor's name is unknown")
    matched = _is_in(part, model)
    return RuleOutcome("cpu", matched, f"{part!r} is {'' if matched else 'not '}in {model!r}")


def _sockets(wanted: int, sockets: int | None) -> RuleOutcome:
    if sockets is None:
        return RuleOutcome("sockets", matched=False, why="their number is unknown")
    matched = sockets == wanted
    return RuleOutcome("sockets", matched, f"there {_are(sockets)}, {'as asked' if matched else f'not {wanted}'}")


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _memory(least_bytes: int, memory_bytes: int | None) -> RuleOutcome:
    if memory_bytes is None:
        return RuleOutcome("min_memory", matched=False, why="the host's memory is unknown")
    matched = memory_bytes >= least_bytes
    return RuleOutcome("min_memory", matched, f"the host has {_compared(memory_bytes, least_bytes, matched=matched)}")


def _compared(has_bytes: int, least_bytes: int, *, matched: bool) -> str:
    return f"{format_bytes(has_bytes)}, {'at least' if matched else 'less than'} {format_bytes(least_bytes)}"


def _gpu_rules(match: MatchSection, host: Host) -> Iterator[RuleOutcome]:
    """Each rule looks only at the GPUs that the ones before it left: all must hold for one and the same."""
    judges: dict[str, Callable[[Gpu], tuple[bool, str]]] = {}
    if match.gpu is not None:
        judges["gpu"] = partial(_gpu_name, match.gpu)
    if match.min_vram is not None:
        judges["min_vram"] = partial(_gpu_memory, match.min_vram)
    if match.min_compute_capability is not None:
        judges["min_compute_capability"] = partial(_gpu_capability, match.min_compute_capability)
    left = host.gpus
    for rule, judge in judges.items():
        if left is None:
            reasons = "; ".join(host.notes) or "nobody was asked"
            yield RuleOutcome(rule, matched=False, why=f"unknown, because {reasons}")
        elif not left:
            why = "the rules above leave no GPU" if host.gpus else "no GPU was seen"
            yield RuleOutcome(rule, matched=False, why=why)
        else:
            judged = [(gpu, *judge(gpu)) for gpu in left]
            left = tuple(gpu for gpu, matched, _ in judged if matched)
            said = [why for _, matched, why in judged if matched == bool(left)]
            yield RuleOutcome(rule, bool(left), ", ".join(dict.fromkeys(said)))


def _gpu_name(part: str, gpu: Gpu) -> tuple[bool, str]:
    matched = _is_in(part, gpu.name)
    return matched, f"{part!r} is {'' if matched else 'not '}in {gpu.name!r}"


def _gpu_memory(least_bytes: int, gpu: Gpu) -> tuple[bool, str]:
    if gpu.memory_bytes is None:
        return False, f"the memory of {gpu.name!r} is unknown"
    matched = gpu.memory_bytes >= least_bytes
    return matched, f"{gpu.name!r} has {_compared(gpu.memory_bytes, least_bytes, matched=matched)}"


def _gpu_capability(least: float, gpu: Gpu) -> tuple[bool, str]:
    if gpu.compute_capability is None:
        return False, f"the compute capability of {gpu.name!r} is unknown"
    matched = gpu.compute_capability >= least
    return matched, f"{gpu.name!r} has {gpu.compute_capability}, {'at least' if matched else 'less than'} {least}"


def _is_in(part: str, whole: str) -> bool:
    """Whatever the case, and however many blanks a maker puts between two words."""
    return " ".join(part.casefold().split()) in " ".join(whole.casefold().split())
