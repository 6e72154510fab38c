"""Roots that would open what they must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from app.policy.lint import lint
from app.policy.paths import PROTECTED, PROTECTED_UNDER_WSL, protecting
from app.policy.rules import Policy, Root
from app.tools.base import Protected

WORKSPACE = PurePosixPath("/home/user/workspace")
POLICY = Policy({}, roots=(Root(WORKSPACE, "read"),))


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("/", "belongs to the system"),
        ("/var/run/docker", "belongs to the system"),
        ("/home/user/.ssh", "is private"),
        ("/home/user/repo/.git/hooks", "is private"),
        ("/srv/C:\\Users\\me", "looks like a Windows path"),
        ("/srv/C:/Users/me", "looks like a Windows path"),
        (str(WORKSPACE), "is a root already"),
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
    policy = Policy({}, roots=(Root(WORKSPACE, "read"), Root(PurePosixPath(root), "read")), protected=PROTECTED)

    for protected in (PROTECTED, protecting(*private)):
        [(index, problem)] = lint(replace(policy, protected=protected), private)
        assert index == 1
        assert words in problem


def test_workspace_beside_the_manifest_is_fine() -> None:
    private = (PurePosixPath("/home/user/.airlab"), PurePosixPath("/home/user/airlab.yaml"))

    assert lint(replace(POLICY, protected=protecting(*private)), private) == []


def test_roots_may_lie_in_each_other_and_the_innermost_counts() -> None:
    inner = replace(POLICY, roots=(Root(WORKSPACE, "write"), Root(WORKSPACE / "fixed", "read")))

    assert lint(inner, ()) == []
    assert lint(replace(inner, roots=inner.roots[::-1]), ()) == []


@pytest.mark.parametrize(
    ("root", "words"),
    [("/mnt/c", "protected"), ("/mnt/c/WINDOWS", "protected"), ("/mnt", "several names"), ("/mnt/c/users", "several")],
)
def test_under_wsl_a_root_does_not_hold_what_windows_protects(root: str, words: str) -> None:
    secret = Protected(PurePosixPath("/mnt/c/Users/me/secret"), "tree")
    policy = replace(
        POLICY,
        roots=(Root(PurePosixPath(root), "read"),),
        protected=(*PROTECTED, *PROTECTED_UNDER_WSL, secret),
        wsl=True,
    )
    [(_, problem)] = lint(policy, ())

    assert words in problem
