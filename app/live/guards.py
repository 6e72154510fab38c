"""The manifest's ``tools`` and ``policy`` sections -> Policy. Resolves the roots' links, and touches no other file."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath

from app.manifest.load import Loaded
from app.manifest.problems import ManifestProblems, Problem, nearest, shown
from app.manifest.schema import Manifest
from app.policy.lint import lint
from app.policy.paths import protecting
from app.policy.rules import Policy, Root
from app.tools.base import Limits, ToolSpec, discover

builtin_tools = cache(discover)
"""The specs of the built-in tools, by name."""


def policy_for(loaded: Loaded, home: Path, state: Path, *, closed: str | None = None) -> Policy:
    """What tools may do.

    Args:
        loaded: The manifest, with its lines.
        home: The manifest's folder, links resolved; relative roots begin here.
        state: AirLab's own folder, which no root may hold.
        closed: Why no tool may run at all, if so.

    Raises:
        ManifestProblems: It names a tool that there is not, or opens a folder that it must not.
    """
    section, positions = loaded.manifest.policy, loaded.positions
    limits = Limits(section.limits.read, section.limits.results, section.limits.call)
    roots = tuple(Root(_absolute(home, root.path), root.access) for root in section.roots)
    private = (PurePosixPath(state), PurePosixPath(home / "models"))
    policy = Policy(_tools(loaded.manifest), roots, protecting(*private), limits)
    problems = _unknown_tools(loaded)
    for index, problem in lint(policy, private):
        fix = "choose a folder of its own for tools, such as workspace"
        problems.append(positions.problem(("policy", "roots", index, "path"), problem, fix=fix))
    if problems:
        raise ManifestProblems(problems, positions.source)
    return policy if closed is None else replace(policy, tools={}, roots=(), closed=closed)


def _absolute(home: Path, path: str) -> PurePosixPath:
    # Links resolved now: a root that leads into our own folders is seen, and one put there later is not followed.
    return PurePosixPath(os.path.realpath(home / path))


def _tools(manifest: Manifest) -> dict[str, ToolSpec]:
    known, wanted = builtin_tools(), manifest.tools.builtin
    return {name: known[name] for name in (known if wanted == "all" else wanted) if name in known}


def _unknown_tools(loaded: Loaded) -> list[Problem]:
    known, wanted = tuple(builtin_tools()), loaded.manifest.tools.builtin
    problems = []
    for index, name in enumerate(() if wanted == "all" else wanted):
        if name not in known:
            meant = nearest(name, known)
            message = f"there is no tool {shown(name)}" + (f"; did you mean `{meant}`?" if meant else "")
            fix = f"write {meant}" if meant else "write one of these, or all"
            problem = loaded.positions.problem(
                ("tools", "builtin", index), message, allowed=", ".join(known), fix=fix, suggestion=meant
            )
            problems.append(problem)
    return problems
