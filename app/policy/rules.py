"""Judges a call: pure, from the policy in force and the call's arguments to a verdict. Runs and asks nothing.

This is the first wall; the worker looks at every path again, with the kernel's help. What no rule covers is denied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from app.policy import windows
from app.policy.paths import PROTECTED
from app.tools.base import Confinement, Limits, Protected, ToolProblem, ToolSpec, WorkerKind, parse_path
from app.tools.private_names import private_name

Answer = Literal["allow", "ask", "deny"]


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
    sandbox: Literal["required", "degraded"] = "required"
    """Whether tools that only read are offered where the kernel cannot confine them."""
    destructive: Answer = "ask"
    """The answer to a call that takes something away."""
    allow_private: tuple[str, ...] = ()
    """Networks that may be contacted though they are not public."""
    ports: tuple[int, ...] = (80, 443)
    """TCP ports that may be contacted."""
    turn_s: float = 120.0
    """Seconds for all calls of one turn."""
    mcp_server: bool = False
    """Whether agents elsewhere are offered the tools, at /mcp."""
    wsl: bool = False
    """Whether /mnt/c and its like are Windows drives, where one file has many spellings."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a call, and where it runs if it does."""

    answer: Answer
    reason: str
    """In words; a model reads it when the answer is no."""
    confinement: Confinement | None = None
    """None when the answer is deny."""
    may_destroy: bool = False
    """Whether this one call may take away or overwrite what is there, once it is allowed."""


def confinement_for(policy: Policy, kind: WorkerKind, *, changes: bool = False, foreign: bool = False) -> Confinement:
    """The most that a worker of this kind may reach under this policy: files or network, never both.

    Args:
        policy: The rules in force.
        kind: The kind of worker.
        changes: Whether a program that it runs may change files (``command`` only; of the others the kind says so).
        foreign: Whether what runs there is not AirLab's own code.
    """
    limits = policy.limits
    if kind == "net":
        return Confinement(kind, limits=limits, allow_private=policy.allow_private, ports=policy.ports)
    writable = tuple(root.path for root in policy.roots if root.access == "write")
    others = tuple(root.path for root in policy.roots if root.access != "write")
    if kind == "fs_write" or (kind == "command" and changes):
        return Confinement(kind, others, writable, policy.protected, limits, foreign=foreign)
    # The writable ones first: the first root is where a model is told that it is.
    return Confinement(kind, (*writable, *others), (), policy.protected, limits, foreign=foreign)


def confinement_of(policy: Policy, spec: ToolSpec) -> Confinement:
    """Where calls of this tool run."""
    changes = bool(spec.changes) or spec.risk in {"write", "destructive"}
    return confinement_for(policy, spec.kind, changes=changes, foreign=spec.is_declared)


def confinements(policy: Policy) -> frozenset[Confinement]:
    """Every Confinement that the tools in force can run in: what the toolbox keeps workers for."""
    return frozenset(confinement_of(policy, spec) for spec in policy.tools.values())


def judge(policy: Policy, spec: ToolSpec, arguments: Mapping[str, Any], *, destroys: bool = False) -> Verdict:
    """Whether a tool may run with these arguments, which fit its schema.

    Args:
        policy: The rules in force.
        spec: The tool.
        arguments: What it was called with.
        destroys: Whether this call is known to take something away, whatever the tool's risk is.

    Returns:
        A verdict; a no says what the model can do instead.
    """
    if policy.tools.get(spec.name) != spec:
        return Verdict("deny", f"Denied: {spec.name} is not enabled here. Do without it, or ask the user.")
    covered = spec.risk in _COVERED and spec.kind in _COVERED[spec.risk]
    # A worker with network that took a path could carry away what it reads.
    if not covered or (spec.kind == "net" and spec.paths):
        return Verdict("deny", f"Denied: no rule of the policy covers {spec.name}. Do without it, or ask the user.")
    confinement = confinement_of(policy, spec)
    refused = next(_refusals(policy, spec, arguments, confinement), None)
    if refused is not None:
        return Verdict("deny", f"Denied: {refused}")
    # What a program of which no more is said does to the paths that it changes, nobody knows beforehand.
    if destroys or spec.risk == "destructive" or (spec.risk == "command" and spec.changes):
        return _destroying(policy, spec, confinement)
    may_destroy = spec.risk == "write" and policy.destructive == "allow"
    reason = _SERVED if spec.is_served else _ALLOWED[spec.risk]
    return Verdict("allow", reason, confinement, may_destroy)


_COVERED: Mapping[str, frozenset[WorkerKind]] = {
    "read": frozenset({"fs_read", "command"}),
    "write": frozenset({"fs_write", "command"}),
    "destructive": frozenset({"fs_write", "command", "net"}),
    "net": frozenset({"net"}),
    "command": frozenset({"command"}),
}
"""The risks that there are rules for, with the kinds of worker that such a tool may run in."""

_ALLOWED: Mapping[str, str] = {
    "read": "reads below the roots only",
    "write": "writes below the writable roots only",
    "net": "looks at the network, touches no file",
    "command": "runs a declared program, which reads below the roots only",
}
"""Why a call of such a risk is allowed."""

_SERVED = "done by a server that airlab.yaml allows, outside AirLab's walls"
"""The same where no wall holds the tool."""


def _destroying(policy: Policy, spec: ToolSpec, confinement: Confinement) -> Verdict:
    if policy.destructive == "allow":
        return Verdict("allow", "may do what cannot be undone: policy.destructive allows it", confinement, True)
    if policy.destructive == "ask":
        return Verdict("ask", "may do what cannot be undone, so a person has to allow it", confinement, True)
    why = f"{spec.name} would do what cannot be undone, such as overwriting, which policy.destructive forbids"
    return Verdict("deny", f"Denied: {why}. Do without it, or ask the user.")


def _refusals(policy: Policy, spec: ToolSpec, arguments: Mapping[str, Any], confinement: Confinement) -> Iterator[str]:
    """Why paths of this call are out of bounds, each with a place to choose."""
    properties = spec.parameters["properties"]
    defaults = {name: properties[name]["default"] for name in spec.paths if "default" in properties[name]}
    given = defaults | dict(arguments)
    for name in (name for name in spec.paths if name in given):
        try:
            path = parse_path(str(given[name]))
        except ToolProblem as problem:
            yield problem.message
        else:
            refused = _refusal(policy, spec, path, confinement, changes=name in spec.changes)
            if refused is not None:
                yield refused


def _refusal(
    policy: Policy, spec: ToolSpec, path: PurePosixPath, confinement: Confinement, *, changes: bool
) -> str | None:
    where = confinement.writable_in_words if changes else confinement.roots_in_words
    if not (confinement.write if changes else (*confinement.read, *confinement.write)):
        open_for = " for writing" if changes else ""
        return f"no folder is open to {spec.name}{open_for}. Ask the user to add one to policy.roots."
    if is_protected(policy, path):
        return f"{path} is protected. Choose a path under {where}."
    if (private := private_name(path, changes=changes)) is not None:
        return f"{private} is private, wherever it stands. Choose another path under {where}."
    if confinement.root_of(path) is None or (changes and not confinement.is_writable(path)):
        doing = "write" if changes else "read"
        return f"{spec.name} may only {doing} inside {where}. Choose a path under {where}, or ask the user."
    if spec.risk == "destructive" and changes and (kept := confinement.must_stay(path)) is not None:
        return f"{kept} must stay where it is, and would go with {path}. Choose a path below it."
    return None


def is_protected(policy: Policy, path: PurePosixPath) -> bool:
    """True when the policy names ``path``, which is absolute and without ``..``, as one that no tool touches."""
    if any(entry.covers(path) for entry in policy.protected):
        return True
    return policy.wsl and windows.is_protected(path, policy.protected)
