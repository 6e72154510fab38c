"""Policy, as plain calls: what is allowed, what is denied, and with which words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, cast

import pytest

from app.policy.lint import lint
from app.policy.paths import PROTECTED, protecting
from app.policy.rules import Policy, Root, confinements, judge
from app.tools.base import Confinement, Protected, discover

TOOLS = discover()
WORKSPACE = PurePosixPath("/home/user/workspace")
POLICY = Policy(TOOLS, roots=(Root(WORKSPACE, "read"),))


def answer(tool: str, policy: Policy = POLICY, **arguments: object) -> tuple[str, str]:
    verdict = judge(policy, TOOLS[tool], arguments)
    assert (verdict.confinement is not None) == (verdict.answer == "allow")
    return verdict.answer, verdict.reason


def test_reading_below_a_root_is_allowed_in_a_worker_without_network() -> None:
    verdict = judge(POLICY, TOOLS["read_file"], {"path": f"{WORKSPACE}/notes.txt"})

    assert verdict.answer == "allow"
    assert verdict.confinement == Confinement("fs_read", read=(WORKSPACE,), protected=PROTECTED)


def test_network_is_allowed_in_a_worker_without_files() -> None:
    verdict = judge(POLICY, TOOLS["lookup_hostname"], {"hostname": "example.org"})

    assert verdict.answer == "allow"
    assert verdict.confinement == Confinement("net")


@pytest.mark.parametrize("path", ["/etc/passwd", f"{WORKSPACE}-evil/x", "/home/user", "/home/user/workspac", "/"])
def test_path_outside_the_roots_is_denied_with_a_place_to_try(path: str) -> None:
    verdict, reason = answer("read_file", path=path)

    assert verdict == "deny"
    assert reason.startswith("Denied: ")
    assert f"Choose a path under {WORKSPACE}" in reason


@pytest.mark.parametrize("path", [f"{WORKSPACE}/../x", "notes.txt", "/a\0b", 7, None])
def test_path_that_cannot_be_read_is_denied(path: object) -> None:
    assert answer("read_file", path=path)[0] == "deny"


def test_no_roots_means_no_files() -> None:
    """An empty list that means everything is a bug that others keep making."""
    nothing = replace(POLICY, roots=())

    assert answer("read_file", nothing, path="/home/user/workspace/a")[0] == "deny"
    assert "policy.roots" in answer("list_contents", nothing, path="/")[1]
    assert answer("get_current_time", nothing)[0] == "allow"


def test_protected_subtracts_from_a_root() -> None:
    secret = Protected(WORKSPACE / "secret", "tree")
    exact = Protected(WORKSPACE / "only", "exact")
    policy = replace(POLICY, protected=(*PROTECTED, secret, exact))

    for path, expected in (
        ("secret", "deny"),
        ("secret/key", "deny"),
        ("secrets", "allow"),
        ("only", "deny"),
        ("only/below", "allow"),
    ):
        assert answer("read_file", policy, path=f"{WORKSPACE}/{path}")[0] == expected


def test_tool_that_is_not_enabled_is_denied() -> None:
    enabled = {name: spec for name, spec in TOOLS.items() if name != "read_file"}

    assert "not enabled" in answer("read_file", replace(POLICY, tools=enabled), path=f"{WORKSPACE}/a")[1]


def test_what_no_rule_covers_is_denied() -> None:
    """A new class of risk is closed until somebody writes its rule."""
    spec = replace(TOOLS["read_file"], risk=cast(Any, "write"))
    policy = replace(POLICY, tools={"read_file": spec})

    verdict = judge(policy, spec, {"path": f"{WORKSPACE}/a"})

    assert verdict.answer == "deny"
    assert "no rule" in verdict.reason


def test_network_tool_that_takes_a_path_is_denied() -> None:
    """It could carry away what it reads."""
    spec = replace(TOOLS["lookup_hostname"], paths=("hostname",))

    assert judge(replace(POLICY, tools={spec.name: spec}), spec, {"hostname": f"{WORKSPACE}/a"}).answer == "deny"


def test_one_confinement_for_each_kind_of_worker_in_force() -> None:
    assert {confinement.kind for confinement in confinements(POLICY)} == {"fs_read", "net"}
    only_time = replace(POLICY, tools={"get_current_time": TOOLS["get_current_time"]})
    assert {confinement.kind for confinement in confinements(only_time)} == {"fs_read"}


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("/", "belongs to the system"),
        ("/etc", "belongs to the system"),
        ("/proc/self", "belongs to the system"),
        ("/usr/sbin", "belongs to the system"),
        ("/home/user", "AirLab's own"),
        ("/home/user/.airlab", "AirLab's own"),
        ("/home/user/.airlab/logs", "AirLab's own"),
        ("workspace", "not an absolute path"),
        ("/home/user/x/../workspace", "not an absolute path"),
    ],
)
def test_root_that_would_open_too_much_is_refused(root: str, words: str) -> None:
    private = (PurePosixPath("/home/user/.airlab"), PurePosixPath("/home/user/airlab.yaml"))
    policy = Policy(TOOLS, roots=(Root(WORKSPACE, "read"), Root(PurePosixPath(root), "read")), protected=PROTECTED)

    for protected in (PROTECTED, protecting(*private)):
        [(index, problem)] = lint(replace(policy, protected=protected), private)
        assert index == 1
        assert words in problem


def test_workspace_beside_the_manifest_is_fine() -> None:
    private = (PurePosixPath("/home/user/.airlab"), PurePosixPath("/home/user/airlab.yaml"))

    assert lint(replace(POLICY, protected=protecting(*private)), private) == []
