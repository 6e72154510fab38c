"""What a new policy allows on top of the old one: nothing may be missed, and less is never more."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.policy.compare import loosened
from app.policy.paths import PROTECTED
from app.policy.rules import Policy, Root, confinement_for
from app.tools.base import Limits, Protected, discover

TOOLS = discover()
HOME = PurePosixPath("/home/user")


def root(name: str, access: Literal["read", "write"] = "write") -> Root:
    return Root(HOME / name, access)


POLICY = Policy(TOOLS, (root("work"),))


def test_same_policy_allows_nothing_more() -> None:
    assert loosened(POLICY, POLICY) == ()


@pytest.mark.parametrize(
    "stricter",
    [
        replace(POLICY, tools={}),
        replace(POLICY, roots=()),
        replace(POLICY, roots=(root("work", "read"),)),
        replace(POLICY, roots=(root("work/inner"),)),
        replace(POLICY, roots=(root("work/inner", "read"), root("work/other"))),
        replace(POLICY, protected=(*PROTECTED, Protected(HOME / "work" / "secret", "tree"))),
        replace(POLICY, limits=Limits(read_bytes=1024, results=1, call_s=0.1)),
        replace(POLICY, tools={}, roots=(), closed="the file is broken"),
    ],
)
def test_less_is_not_more_and_the_way_back_is(stricter: Policy) -> None:
    assert loosened(POLICY, stricter) == ()
    assert loosened(stricter, POLICY)


def test_tools_that_come_are_named() -> None:
    before = replace(POLICY, tools={name: TOOLS[name] for name in TOOLS if name not in {"read_file", "list_contents"}})
    (reason,) = loosened(before, POLICY)
    assert reason.startswith("tools would be offered that were not: ")
    assert {"read_file", "list_contents"} == set(reason.rpartition(": ")[2].split(", "))


def test_agents_elsewhere_that_are_let_in_are_told_of() -> None:
    (reason,) = loosened(POLICY, replace(POLICY, mcp_server=True))
    assert "/mcp" in reason
    assert loosened(replace(POLICY, mcp_server=True), POLICY) == ()


@pytest.mark.parametrize(
    ("roots", "reached"),
    [
        ((root("work"), root("more")), "/home/user/more (write)"),
        ((Root(HOME, "read"),), "/home/user (read)"),
        ((root("work-evil"),), "/home/user/work-evil (write)"),
        ((root("wor"),), "/home/user/wor (write)"),
    ],
)
def test_folder_that_is_opened_is_named_with_how(roots: tuple[Root, ...], reached: str) -> None:
    assert loosened(POLICY, replace(POLICY, roots=roots)) == (f"tools would reach {reached}",)


def test_writing_where_only_reading_was_allowed_is_more() -> None:
    before = replace(POLICY, roots=(root("work", "read"),))
    assert loosened(before, POLICY) == (f"tools would reach {HOME}/work (write)",)


def test_two_roots_together_do_not_hold_what_neither_holds() -> None:
    before = replace(POLICY, roots=(root("a"), root("b")))
    assert loosened(before, replace(POLICY, roots=(Root(HOME, "write"),)))


def test_folder_that_was_for_reading_only_inside_a_writable_one_is_missed_when_it_goes() -> None:
    fixed = root("work/fixed", "read")
    before = replace(POLICY, roots=(root("work"), fixed))

    assert loosened(before, POLICY) == (f"tools would reach {fixed.path} (write)",)
    assert loosened(POLICY, before) == ()


def test_place_that_is_protected_no_more_is_named() -> None:
    secret = HOME / "work" / "secret"
    before = replace(POLICY, protected=(*PROTECTED, Protected(secret, "tree")))
    assert loosened(before, POLICY) == (f"no longer protected: {secret}",)
    exact = replace(POLICY, protected=(*PROTECTED, Protected(secret, "exact")))
    assert loosened(before, exact), "what lies below it is open now"


@pytest.mark.parametrize("limit", [field.name for field in fields(Limits)])
def test_every_limit_that_grows_is_named_with_both_numbers(limit: str) -> None:
    before = getattr(POLICY.limits, limit)
    (reason,) = loosened(POLICY, replace(POLICY, limits=replace(POLICY.limits, **{limit: before * 2})))
    assert limit in reason
    assert reason.endswith(f"would grow from {before:g} to {before * 2:g}")


NAMES = st.lists(st.sampled_from("abc"), max_size=3).map("/".join)
ROOTS = st.lists(st.builds(root, NAMES, st.sampled_from(["read", "write"])), max_size=3).map(tuple)


@given(ROOTS, ROOTS, NAMES)
def test_folder_that_becomes_readable_is_always_reported(
    old: tuple[Root, ...], new: tuple[Root, ...], name: str
) -> None:
    """Judged by what a worker would be allowed to read."""
    before, after = replace(POLICY, roots=old), replace(POLICY, roots=new)
    may, might = (confinement_for(policy, "fs_read").root_of(HOME / name) is not None for policy in (before, after))
    assert loosened(before, after) or may or not might


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sandbox": "degraded"}, "where the kernel cannot confine them"),
        ({"destructive": "allow"}, "policy.destructive would go from ask to allow"),
        ({"allow_private": ("10.0.0.0/8",)}, "tools would reach the private networks 10.0.0.0/8"),
        ({"ports": (80, 443, 22)}, "tools would connect to the ports 22"),
        ({"turn_s": 240.0}, "the limit turn_s would grow from 120 to 240"),
    ],
)
def test_every_other_rule_that_is_loosened_is_named(more: dict[str, Any], words: str) -> None:
    looser = replace(POLICY, **more)
    (reason,) = loosened(POLICY, looser)

    assert words in reason
    assert loosened(looser, POLICY) == ()


def test_part_of_an_allowed_network_is_nothing_new() -> None:
    before = replace(POLICY, allow_private=("10.0.0.0/8", "fc00::/7"))

    assert loosened(before, replace(POLICY, allow_private=("10.1.0.0/16",))) == ()
    assert loosened(before, replace(POLICY, allow_private=("192.168.0.0/16",)))


def test_tool_that_becomes_another_under_the_same_name_is_named() -> None:
    """What it may do now was never allowed by that name."""
    other = replace(POLICY, tools=TOOLS | {"read_file": replace(TOOLS["read_file"], risk="net", paths=())})

    assert loosened(POLICY, other) == ("tools would do something else under the same name: read_file",)
