"""A random search for a call that is allowed and should not be."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.policy.paths import PROTECTED
from app.policy.rules import Policy, Root, judge
from app.tools.base import Protected, ToolSpec, discover

TOOLS = discover()

PARTS = st.sampled_from(
    ["home", "user", "work", "work-evil", "secret", "only", "etc", ".ssh", "mnt", "c", "Windows", "a"]
)
PATHS = st.lists(PARTS, max_size=5).map(lambda parts: PurePosixPath("/", *parts))
ENTRIES = st.lists(st.builds(Protected, PATHS, st.sampled_from(["exact", "tree"])), max_size=3).map(tuple)
ROOTS = st.lists(st.builds(Root, PATHS, st.sampled_from(["read", "write"])), max_size=3).map(tuple)


@settings(max_examples=300)
@given(
    roots=ROOTS,
    protected=ENTRIES,
    wsl=st.booleans(),
    destructive=st.sampled_from(["allow", "ask", "deny"]),
    tool=st.sampled_from([spec for spec in TOOLS.values() if spec.paths]),
    data=st.data(),
)
def test_no_call_outside_the_roots_or_on_a_protected_path_is_ever_allowed(
    roots: tuple[Root, ...], protected: tuple[Protected, ...], *, wsl: bool, destructive: Any, tool: ToolSpec, data: Any
) -> None:
    """Judged by an account of its own: the names of the path, one by one, and nothing of the policy's code."""
    policy = Policy(TOOLS, roots, (*PROTECTED, *protected), wsl=wsl, destructive=destructive)
    arguments = {name: str(data.draw(PATHS, label=name)) for name in tool.paths}
    verdict = judge(policy, tool, arguments, destroys=data.draw(st.booleans()))

    if verdict.answer == "deny":
        assert verdict.confinement is None
        assert verdict.reason.startswith("Denied: ")
        return
    for name, text in arguments.items():
        holding = [root for root in roots if f"{text}/".startswith(f"{root.path}/".replace("//", "/"))]
        assert holding
        if name in tool.changes:
            longest = max(len(str(root.path)) for root in holding)
            assert "write" in {root.access for root in holding if len(str(root.path)) == longest}
        for entry in protected:
            assert text != str(entry.path)
            assert entry.reach == "exact" or not text.startswith(f"{entry.path}/".replace("//", "/"))
        assert "/.ssh" not in text
