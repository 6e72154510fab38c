"""What a new policy allows that the old one did not: pure, shown before it comes into force."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from ipaddress import ip_network
from pathlib import PurePosixPath

from app.policy.rules import Policy
from app.tools.base import Limits

_ACCESS = ("none", "read", "write")
_STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}


def loosened(old: Policy, new: Policy) -> tuple[str, ...]:
    """Each thing that tools would be allowed on top, in words; empty when they are allowed the same or less."""
    return tuple(_reasons(old, new))


def _reasons(old: Policy, new: Policy) -> Iterator[str]:
    more = [name for name in new.tools if name not in old.tools]
    if more:
        yield f"tools would be offered that were not: {', '.join(more)}"
    other = [name for name, spec in new.tools.items() if name in old.tools and old.tools[name] != spec]
    if other:
        yield f"tools would do something else under the same name: {', '.join(other)}"
    if (old.sandbox, new.sandbox) == ("required", "degraded"):
        yield "tools that only read would run where the kernel cannot confine them"
    if _STRICTNESS[new.destructive] < _STRICTNESS[old.destructive]:
        yield f"policy.destructive would go from {old.destructive} to {new.destructive}"
    if new.mcp_server and not old.mcp_server:
        yield "agents elsewhere would be offered the tools, at /mcp"
    yield from _opened(old, new)
    gone = [entry for entry in old.protected if entry not in new.protected]
    if gone:
        yield f"no longer protected: {', '.join(str(entry.path) for entry in gone)}"
    networks = [text for text in new.allow_private if not any(_within(text, other) for other in old.allow_private)]
    if networks:
        yield f"tools would reach the private networks {', '.join(networks)}"
    ports = [str(port) for port in new.ports if port not in old.ports]
    if ports:
        yield f"tools would connect to the ports {', '.join(ports)}"
    limits = [(each.name, getattr(old.limits, each.name), getattr(new.limits, each.name)) for each in fields(Limits)]
    for name, before, after in (*limits, ("turn_s", old.turn_s, new.turn_s)):
        if after > before:
            yield f"the limit {name} would grow from {before:g} to {after:g}"


def _opened(old: Policy, new: Policy) -> Iterator[str]:
    # What tools may do at a path changes only where a root, old or new, begins.
    told: list[tuple[PurePosixPath, str]] = []
    for path in dict.fromkeys(root.path for root in (*new.roots, *old.roots)):
        access = _access(new, path)
        if any(path.is_relative_to(above) and access == there for above, there in told):
            continue  # said with the folder that holds it
        if _ACCESS.index(access) > _ACCESS.index(_access(old, path)):
            told.append((path, access))
            yield f"tools would reach {path} ({access})"


def _within(network: str, other: str) -> bool:
    inner, outer = ip_network(network), ip_network(other)
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type] # of one version


def _access(policy: Policy, path: PurePosixPath) -> str:
    """What the innermost root that holds ``path`` allows there."""
    holding = [root for root in policy.roots if path.is_relative_to(root.path)]
    return max(holding, key=lambda root: len(root.path.parts)).access if holding else "none"
