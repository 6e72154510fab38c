"""The manifest's ``tools`` and ``policy`` sections -> Policy. Resolves the roots' links, and touches no other file."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path, PurePosixPath

from app.errors import SettingsError
from app.manifest.schema import Manifest
from app.policy.lint import lint
from app.policy.paths import protecting
from app.policy.rules import Policy, Root
from app.tools.base import Limits, ToolSpec, discover

builtin_tools = cache(discover)
"""The specs of the built-in tools, by name."""


def policy_for(manifest: Manifest, home: Path, state: Path) -> Policy:
    """What tools may do.

    Args:
        manifest: What the file says.
        home: The manifest's folder, links resolved; relative roots begin here.
        state: AirLab's own folder, which no root may hold.

    Raises:
        SettingsError: The manifest names a tool that there is not, or opens a folder that it must not.
    """
    section = manifest.policy
    limits = Limits(section.limits.read, section.limits.results, section.limits.call)
    roots = tuple(Root(_absolute(home, root.path), root.access) for root in section.roots)
    private = (PurePosixPath(state), PurePosixPath(home / "models"))
    policy = Policy(_tools(manifest), roots, protecting(*private), limits)
    problems = lint(policy, private)
    if problems:
        lines = "\n".join(f"  policy.roots[{index}]: {problem}" for index, problem in problems)
        raise SettingsError(f"the policy cannot come into force:\n{lines}")
    return policy


def _absolute(home: Path, path: str) -> PurePosixPath:
    # Links resolved now: a root that leads into our own folders is seen, and one put there later is not followed.
    return PurePosixPath(os.path.realpath(home / path))


def _tools(manifest: Manifest) -> dict[str, ToolSpec]:
    known, wanted = builtin_tools(), manifest.tools.builtin
    if wanted == "all":
        return dict(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SettingsError(f"tools.builtin: no tool {', '.join(unknown)}; there are {', '.join(known)}")
    return {name: known[name] for name in wanted}
