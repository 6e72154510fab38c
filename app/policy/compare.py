"""What a new policy allows that the old one did not: pure, shown before it comes into force."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from app.policy.rules import Policy, Root


def loosened(old: Policy, new: Policy) -> tuple[str, ...]:
    """Each thing that tools would be allowed on top, in words; empty when they are allowed the same or less."""
    return tuple(_reasons(old, new))


def _reasons(old: Policy, new: Policy) -> Iterator[str]:
    more = [name for name in new.tools if name not in old.tools]
    if more:
        yield f"tools would be offered that were not: {', '.join(more)}"
    for root in new.roots:
        if not any(_holds(before, root) for before in old.roots):
            yield f"tools would reach {root.path} ({root.access})"
    gone = [entry for entry in old.protected if entry not in new.protected]
    if gone:
        yield f"no longer protected: {', '.join(str(entry.path) for entry in gone)}"
    for field in fields(new.limits):
        before, after = getattr(old.limits, field.name), getattr(new.limits, field.name)
        if after > before:
            yield f"the limit {field.name} would grow from {before:g} to {after:g}"


def _holds(old: Root, new: Root) -> bool:
    return new.path.is_relative_to(old.path) and (old.access == "write" or new.access == "read")
