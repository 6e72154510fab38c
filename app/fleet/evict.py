"""Which models go to make room for another: the longest idle for what loading them again costs. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping

from app.fleet.spec import ModelSpec
from app.fleet.states import InstanceFacts

_LEAST_LOAD_S = 1.0
"""Below this, loading again costs about the same for all; so it does where it is not known."""


def in_order(
    candidates: Iterable[InstanceFacts], models: Mapping[str, ModelSpec], *, now_s: float
) -> list[InstanceFacts]:
    """Those that may go, whoever should go first in front; a pinned model never may."""

    def worth_keeping(instance: InstanceFacts) -> float:
        return -(now_s - instance.last_used_s) / max(instance.load_s or 0.0, _LEAST_LOAD_S)

    return sorted((i for i in candidates if not _is_pinned(i, models)), key=worth_keeping)


def fewest(ordered: list[InstanceFacts], enough: Callable[[Collection[int]], bool]) -> list[InstanceFacts] | None:
    """The first of them that together are enough, without those that turn out not to be needed; None if all are not."""
    chosen: list[InstanceFacts] = []
    for instance in ordered:
        chosen.append(instance)
        if enough({each.id for each in chosen}):
            break
    else:
        return None
    for instance in tuple(chosen[:-1]):
        without = {each.id for each in chosen if each is not instance}
        if enough(without):
            chosen.remove(instance)
    return chosen


def rivals_in(models: Mapping[str, ModelSpec]) -> Mapping[str, frozenset[str]]:
    """For each model that has any, those that may not be loaded together with it, whichever of the two says so."""
    pairs = [(key, other) for key, spec in models.items() for other in spec.section.not_with if other != key]
    either = [*pairs, *((other, key) for key, other in pairs)]
    return {key: frozenset(other for one, other in either if one == key) for key, _ in either}


def idle_timeout_s(spec: ModelSpec, keep_alive_s: float | None) -> float | None:
    """After how long without a request a model is unloaded; None for never. A pinned one is not a request's to unload.

    Args:
        spec: The model.
        keep_alive_s: What a request set, if any did.
    """
    if keep_alive_s is None or spec.section.pin:
        return spec.section.idle_timeout
    return None if math.isinf(keep_alive_s) else keep_alive_s


def _is_pinned(instance: InstanceFacts, models: Mapping[str, ModelSpec]) -> bool:
    spec = models.get(instance.key)
    return spec is not None and spec.section.pin
