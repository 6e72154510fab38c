"""Refuses a policy that would open what it must not: pure, looked at before the policy comes into force."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from app.policy.paths import overlap
from app.policy.rules import Policy, Root


def lint(policy: Policy, private: Sequence[PurePosixPath]) -> list[tuple[int, str]]:
    """What is wrong with the roots: the index of each bad one, with a sentence that says what to do.

    Args:
        policy: The policy that is to come into force; its roots are absolute, links resolved.
        private: Places that are AirLab's alone, such as its state folder and its manifest.
    """
    found = ((index, _problem(root, policy, private)) for index, root in enumerate(policy.roots))
    return [(index, problem) for index, problem in found if problem is not None]


def _problem(root: Root, policy: Policy, private: Sequence[PurePosixPath]) -> str | None:
    path = root.path
    if not path.is_absolute() or ".." in path.parts:
        return f"{path} is not an absolute path without `..`; write the whole path"
    if any(entry.covers(path) for entry in policy.protected if entry.path not in private):
        return f"{path} belongs to the system and cannot be opened to tools; choose a folder of its own for them"
    for place in private:
        if overlap(path, place):
            return (
                f"{path} would let tools see {place}, which is AirLab's own; choose a folder beside it, "
                "such as workspace/"
            )
    return None
