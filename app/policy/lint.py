"""Refuses a policy that would open what it must not: pure, looked at before the policy comes into force."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from app.policy import windows
from app.policy.paths import overlap
from app.policy.rules import Policy, is_protected
from app.tools.private_names import private_name

_WINDOWS_NAME = re.compile(r"[A-Za-z]:($|\\)")


def lint(policy: Policy, private: Sequence[PurePosixPath]) -> list[tuple[int, str]]:
    """What is wrong with the roots: the index of each bad one, with a sentence that says what to do.

    Args:
        policy: The policy that is to come into force; its roots are absolute, links resolved.
        private: Places that are AirLab's alone, such as its state folder and its manifest.
    """
    found = ((index, next(_problems(index, policy, private), None)) for index in range(len(policy.roots)))
    return [(index, problem) for index, problem in found if problem is not None]


def _problems(index: int, policy: Policy, private: Sequence[PurePosixPath]) -> Iterator[str]:
    path = policy.roots[index].path
    if not path.is_absolute() or ".." in path.parts:
        yield f"{path} is not an absolute path without `..`; write the whole path"
    if any(_WINDOWS_NAME.match(name) for name in path.parts):
        yield f"{path} looks like a Windows path; write it as Linux sees it, such as /mnt/c/Users/me/workspace"
    others = tuple(entry for entry in policy.protected if entry.path not in private)
    if is_protected(replace(policy, protected=others), path):
        yield f"{path} belongs to the system, or is protected, and cannot be opened to tools; choose another folder"
    for place in private:
        if overlap(path, place):
            yield (
                f"{path} would let tools see {place}, which is AirLab's own; choose a folder beside it, "
                "such as workspace/"
            )
    if (name := private_name(path)) is not None:
        yield f"{path} is private, for the {name} in it; choose another folder"
    if policy.wsl and (held := windows.held(path, policy.protected)) is not None:
        # A tool that walks the root would meet it under any of its names.
        yield f"{path} holds {held}, which has several names on a Windows drive; choose a root beside it"
    if path in (root.path for root in policy.roots[:index]):
        yield f"{path} is a root already; write it once"
