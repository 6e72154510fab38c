"""What the kernel enforces on tools, in words and in figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from app.tools.base import WorkerKind

Enforced = Mapping[WorkerKind, str | None]
"""For each kind of worker, why its wall does not hold; None where it was tried and does."""


def in_words(enforced: Enforced) -> str:
    """For people: which walls hold, and what is behind none."""
    hold = [kind for kind, why in enforced.items() if why is None]
    gaps = [f"not for {kind} ({why})" for kind, why in enforced.items() if why is not None]
    kernel = f"the kernel's wall (Landlock, seccomp) round {', '.join(hold) or 'no'} workers"
    return "; ".join([f"enforced: the policy, a process with resource limits for each call, {kernel}", *gaps])


def trouble(gaps: Mapping[WorkerKind, str], *, details: bool) -> str | None:
    """What /health says of kinds of worker that do not run, or run without their wall; None when there are none."""
    if not gaps:
        return None
    if not details:
        return "some tools cannot be confined here"
    return "; ".join(f"{kind} tools cannot be confined here: {why}" for kind, why in gaps.items())


def samples(enforced: Enforced) -> list[tuple[str, int]]:
    """For /metrics: labels, and 1 where the wall of that kind holds."""
    return [(f'{{class="{kind}"}}', int(why is None)) for kind, why in enforced.items()]
