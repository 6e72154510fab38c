"""Judges a call: pure, from the policy in force and the call's arguments to a verdict. Runs and asks nothing.

This is the first wall; the worker looks at every path again, with the kernel's help. What no rule covers is denied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from app.policy.paths import PROTECTED
from app.tools.base import Confinement, Limits, Protected, ToolProblem, ToolSpec, WorkerKind, parse_path


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that tools may use, with all below it."""

    path: PurePosixPath
    access: Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What tools may do."""

    tools: Mapping[str, ToolSpec]
    """The tools in force, by name."""
    roots: tuple[Root, ...] = ()
    """The only source of access to files; none means no file at all."""
    protected: tuple[Protected, ...] = PROTECTED
    """Never touched, even below a root."""
    limits: Limits = field(default_factory=Limits)
    closed: str | None = None
    """Why there are no tools, where something other than their list forbids them; in words."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a call, and where it runs if it does."""

    answer: Literal["allow", "ask", "deny"]
    reason: str
    """In words; a model reads it when the answer is no."""
    confinement: Confinement | None = None
    """None unless the answer is allow."""


def confinement_for(policy: Policy, kind: WorkerKind) -> Confinement:
    """The most that a worker of this kind may reach under this policy: files or network, never both."""
    if kind == "net":
        return Confinement("net", limits=policy.limits)
    # The writable ones first: the first root is where a model is told that it is.
    roots = tuple(root.path for root in sorted(policy.roots, key=lambda root: root.access != "write"))
    return Confinement("fs_read", read=roots, protected=policy.protected, limits=policy.limits)


def confinements(policy: Policy) -> frozenset[Confinement]:
    """Every Confinement that the tools in force can run in: what the toolbox keeps workers for."""
    return frozenset(confinement_for(policy, spec.kind) for spec in policy.tools.values())


def judge(policy: Policy, spec: ToolSpec, arguments: Mapping[str, Any]) -> Verdict:
    """Whether a tool may run with these arguments, which fit its schema.

    Returns:
        A verdict; a no says what the model can do instead.
    """
    if policy.tools.get(spec.name) != spec:
        return Verdict("deny", f"Denied: {spec.name} is not enabled here. Do without it, or ask the user.")
    if spec.risk == "net" and not spec.paths:
        return Verdict("allow", "looks at the network, touches no file", confinement_for(policy, "net"))
    if spec.risk == "read":
        confinement = confinement_for(policy, "fs_read")
        refusals = (_refusal(spec.name, arguments[name], confinement) for name in spec.paths if name in arguments)
        refused = next(filter(None, refusals), None)
        if refused is not None:
            return Verdict("deny", refused)
        return Verdict("allow", "reads below the roots only", confinement)
    return Verdict("deny", f"Denied: no rule of the policy covers {spec.name}. Do without it, or ask the user.")


def _refusal(tool: str, text: object, confinement: Confinement) -> str | None:
    """Why this path is out of bounds, or None."""
    try:
        path = parse_path(text) if isinstance(text, str) else None
    except ToolProblem as problem:
        return f"Denied: {problem.message}"
    if path is None or not confinement.read:
        return f"Denied: no folder is open to {tool}. Ask the user to add one to policy.roots."
    if confinement.is_protected(path):
        return f"Denied: {path} is protected. Choose a path under {confinement.roots_in_words}."
    if confinement.root_of(path) is None:
        where = confinement.roots_in_words
        return f"Denied: {tool} may only read inside {where}. Choose a path under {where}, or ask the user."
    return None
