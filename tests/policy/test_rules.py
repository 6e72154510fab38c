"""Policy, as plain calls: what is allowed, what is denied, and with which words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest

from app.policy.paths import PROTECTED, PROTECTED_UNDER_WSL
from app.policy.rules import Policy, Root, confinements, judge
from app.tools.base import Confinement, Protected, discover

TOOLS = discover()
WORKSPACE = PurePosixPath("/home/user/workspace")
DATA = PurePosixPath("/srv/data")
POLICY = Policy(TOOLS, roots=(Root(WORKSPACE, "read"),))
WRITABLE = replace(POLICY, roots=(Root(WORKSPACE, "write"),))


def answer(tool: str, policy: Policy = POLICY, **arguments: object) -> tuple[str, str]:
    verdict = judge(policy, TOOLS[tool], arguments)
    assert (verdict.confinement is not None) == (verdict.answer != "deny")
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


def test_path_that_is_left_out_is_judged_by_what_stands_for_it() -> None:
    schema = {"type": "object", "properties": {"path": {"type": "string", "default": "/etc"}}, "required": []}
    spec = replace(TOOLS["read_file"], parameters=schema)
    policy = replace(POLICY, tools={spec.name: spec})

    assert judge(policy, spec, {}).answer == "deny"
    assert judge(policy, spec, {"path": f"{WORKSPACE}/a"}).answer == "allow"


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


@pytest.mark.parametrize(
    ("risk", "kind"),
    [("telepathy", None), ("read", "net"), ("read", "fs_write"), ("net", "command"), ("net", "fs_read")],
)
def test_what_no_rule_covers_is_denied(risk: Any, kind: Any) -> None:
    """A new class of risk is closed until somebody writes its rule; so is one that runs where it should not."""
    spec = replace(TOOLS["get_current_time"], risk=risk, runs_in=kind)
    verdict = judge(replace(WRITABLE, tools={spec.name: spec}, destructive="allow"), spec, {})

    assert verdict.answer == "deny"
    assert "no rule" in verdict.reason


@pytest.mark.parametrize(
    ("risk", "answer", "writes"),
    [("read", "allow", False), ("write", "allow", True), ("destructive", "ask", True), ("command", "allow", False)],
)
def test_declared_program_goes_by_the_risk_that_was_declared(risk: Any, answer: str, *, writes: bool) -> None:
    spec = replace(TOOLS["get_current_time"], risk=risk, runs_in="command")
    verdict = judge(replace(WRITABLE, tools={spec.name: spec}), spec, {})

    assert verdict.answer == answer
    assert verdict.confinement is not None
    assert bool(verdict.confinement.write) is writes


def test_request_to_another_machine_that_cannot_be_undone_is_asked_about() -> None:
    """It runs without files, and what it does there nobody can take back."""
    spec = replace(TOOLS["lookup_hostname"], risk="destructive", runs_in="net")
    verdict = judge(replace(WRITABLE, tools={spec.name: spec}), spec, {"hostname": "example.org"})

    assert (verdict.answer, verdict.confinement) == ("ask", Confinement("net"))


def test_network_tool_that_takes_a_path_is_denied() -> None:
    """It could carry away what it reads."""
    spec = replace(TOOLS["lookup_hostname"], paths=("hostname",))

    assert judge(replace(POLICY, tools={spec.name: spec}), spec, {"hostname": f"{WORKSPACE}/a"}).answer == "deny"


def test_one_confinement_for_each_kind_of_worker_in_force() -> None:
    assert {confinement.kind for confinement in confinements(POLICY)} == {"fs_read", "fs_write", "net"}
    only_time = replace(POLICY, tools={"get_current_time": TOOLS["get_current_time"]})
    assert {confinement.kind for confinement in confinements(only_time)} == {"fs_read"}


def test_reading_tools_cannot_write_below_a_writable_root_either() -> None:
    """A reader that is taken over by what it reads has nothing to write with."""
    both = replace(POLICY, roots=(Root(DATA, "read"), Root(WORKSPACE, "write")))

    assert judge(both, TOOLS["read_file"], {"path": f"{DATA}/a"}).confinement == Confinement(
        "fs_read", (WORKSPACE, DATA), (), PROTECTED
    )
    assert judge(both, TOOLS["write_file"], {"path": f"{WORKSPACE}/a"}).confinement == Confinement(
        "fs_write", (DATA,), (WORKSPACE,), PROTECTED
    )


def test_writing_is_allowed_below_a_writable_root_only() -> None:
    both = replace(POLICY, roots=(Root(DATA, "read"), Root(WORKSPACE, "write")))

    assert answer("write_file", both, path=f"{WORKSPACE}/a")[0] == "allow"
    for path in (f"{DATA}/a", "/home/user/a", f"{WORKSPACE}-evil/a"):
        verdict, reason = answer("write_file", both, path=path)
        assert verdict == "deny"
        assert f"may only write inside {WORKSPACE}. Choose a path under {WORKSPACE}" in reason
        assert str(DATA) not in reason.partition("Choose")[2]


def test_without_a_writable_root_nothing_is_written_and_the_model_is_told() -> None:
    verdict, reason = answer("create_directory", path=f"{WORKSPACE}/new")

    assert verdict == "deny"
    assert "no folder is open to create_directory for writing" in reason


def test_copy_may_take_from_where_it_may_not_write() -> None:
    both = replace(POLICY, roots=(Root(DATA, "read"), Root(WORKSPACE, "write")))

    assert answer("copy_file", both, source=f"{DATA}/a", dest=f"{WORKSPACE}/a")[0] == "allow"
    assert answer("copy_file", both, source=f"{WORKSPACE}/a", dest=f"{DATA}/a")[0] == "deny"
    assert answer("move_file", both, source=f"{DATA}/a", dest=f"{WORKSPACE}/a")[0] == "deny", "a move takes it away"


@pytest.mark.parametrize("tool", ["delete_file", "write_file", "move_file", "copy_file"])
@pytest.mark.parametrize(("destructive", "expected"), [("allow", "allow"), ("ask", "ask"), ("deny", "deny")])
def test_what_takes_away_or_overwrites_goes_by_policy_destructive(tool: str, destructive: Any, expected: str) -> None:
    policy = replace(WRITABLE, destructive=destructive)
    arguments = {name: f"{WORKSPACE}/{name}" for name in TOOLS[tool].paths}
    verdict = judge(policy, TOOLS[tool], arguments, destroys=True)

    assert verdict.answer == expected
    assert verdict.may_destroy is (expected != "deny")
    assert verdict.confinement is None or not verdict.confinement.may_destroy, "pools are shared by all calls"
    if tool == "delete_file":
        assert judge(policy, TOOLS[tool], arguments) == verdict


@pytest.mark.parametrize(("destructive", "may"), [("allow", True), ("ask", False), ("deny", False)])
def test_plain_write_may_overwrite_only_where_that_needs_no_permission(destructive: Any, *, may: bool) -> None:
    verdict = judge(replace(WRITABLE, destructive=destructive), TOOLS["write_file"], {"path": f"{WORKSPACE}/a"})

    assert (verdict.answer, verdict.may_destroy) == ("allow", may)


def test_permission_does_not_open_a_path() -> None:
    """What is out of bounds is denied before anybody is asked."""
    policy = replace(WRITABLE, destructive="allow")

    for path in ("/etc/passwd", str(DATA), f"{WORKSPACE}/.ssh/id"):
        assert answer("delete_file", policy, path=path)[0] == "deny"


@pytest.mark.parametrize("path", [WORKSPACE, WORKSPACE / "a", WORKSPACE / "a/secret"])
def test_fault_080_081_what_holds_a_root_or_a_protected_place_is_not_deleted(path: PurePosixPath) -> None:
    policy = replace(WRITABLE, protected=(*PROTECTED, Protected(WORKSPACE / "a" / "secret", "tree")))

    assert answer("delete_file", policy, path=str(path), recursive=True)[0] == "deny"
    assert answer("delete_file", policy, path=f"{WORKSPACE}/b", recursive=True)[0] == "ask"


@pytest.mark.parametrize("tool", ["read_file", "copy_file", "move_file", "delete_file", "write_file"])
def test_fault_080_protected_file_inside_a_root_is_not_touched_by_any_tool(tool: str) -> None:
    secret = WORKSPACE / "secrets"
    policy = replace(WRITABLE, protected=(*PROTECTED, Protected(secret, "tree")), destructive="allow")
    for name in TOOLS[tool].paths:
        arguments = dict.fromkeys(TOOLS[tool].paths, f"{WORKSPACE}/fine") | {name: f"{secret}/key"}
        verdict, reason = answer(tool, policy, **arguments)
        assert verdict == "deny"
        assert "is protected" in reason


@pytest.mark.parametrize(
    "path",
    [
        ".ssh/id_ed25519",
        "a/.ssh",
        ".env",
        "project/.env",
        ".git/hooks/pre-commit",
        "deep/down/.git/config",
        ".GIT/Hooks/x",
        ".bashrc",
        ".zshrc",
        "home/.profile",
        ".gitconfig",
        "docker.sock",
        ".config/fish/config.fish",
    ],
)
def test_private_names_are_not_touched_wherever_they_stand(path: str) -> None:
    """What is in them is a secret, or is run by somebody's shell or git."""
    policy = replace(WRITABLE, destructive="allow")

    assert "is private" in answer("read_file", policy, path=f"{WORKSPACE}/{path}")[1]
    assert answer("write_file", policy, path=f"{WORKSPACE}/{path}")[0] == "deny"


@pytest.mark.parametrize("path", [".git", "project/.git", ".git/objects/ab"])
def test_repositories_insides_are_read_and_not_changed(path: str) -> None:
    """A .git that is written anew, or moved into place, brings hooks of its own."""
    policy = replace(WRITABLE, destructive="allow")

    assert answer("list_contents", policy, path=f"{WORKSPACE}/{path}")[0] == "allow"
    assert answer("write_file", policy, path=f"{WORKSPACE}/{path}")[0] == "deny"
    assert answer("move_file", policy, source=f"{WORKSPACE}/{path}", dest=f"{WORKSPACE}/b")[0] == "deny"


@pytest.mark.parametrize(
    "name", [".sshx", "env", ".git-hooks/x", "git/hooks", ".environment", "hooks", ".github/config"]
)
def test_names_that_only_look_private_are_fine(name: str) -> None:
    assert answer("write_file", WRITABLE, path=f"{WORKSPACE}/{name}")[0] == "allow"


def test_network_worker_gets_the_networks_and_ports_and_no_file() -> None:
    policy = replace(WRITABLE, allow_private=("192.168.1.0/24",), ports=(443, 8443))
    confinement = judge(policy, TOOLS["lookup_hostname"], {"hostname": "nas"}).confinement

    assert confinement == Confinement("net", allow_private=("192.168.1.0/24",), ports=(443, 8443))


def test_declared_program_reads_unless_it_says_what_it_changes() -> None:
    """Nobody knows what a program does to a path that it changes, so that is asked about."""
    reads = replace(TOOLS["read_file"], name="du", risk="command")
    changes = replace(reads, name="tidy", changes=("path",))
    policy = replace(WRITABLE, tools={"du": reads, "tidy": changes})
    read, change = (judge(policy, spec, {"path": f"{WORKSPACE}/a"}) for spec in (reads, changes))

    assert (read.answer, read.may_destroy) == ("allow", False)
    assert read.confinement == Confinement("command", read=(WORKSPACE,), protected=PROTECTED)
    assert change.answer == "ask"
    assert change.confinement == Confinement("command", write=(WORKSPACE,), protected=PROTECTED)
    assert judge(policy, reads, {"path": "/etc/passwd"}).answer == "deny"


def test_under_wsl_windows_is_protected_in_any_case() -> None:
    drive = PurePosixPath("/mnt/c/Users/me")
    policy = replace(POLICY, roots=(Root(drive, "write"),), protected=(*PROTECTED, *PROTECTED_UNDER_WSL), wsl=True)

    assert answer("read_file", policy, path=f"{drive}/notes.txt")[0] == "allow"
    for path in ("/mnt/c/windows/win.ini", "/mnt/c/PROGRA~1/x", f"{drive}/LONGNA~1.TXT", f"{drive}/a:b"):
        verdict, reason = answer("read_file", policy, path=path)
        assert verdict == "deny"
        assert "is protected" in reason
    elsewhere = replace(policy, wsl=False, roots=(Root(WORKSPACE, "read"),))
    assert answer("read_file", elsewhere, path=f"{WORKSPACE}/a:b")[0] == "allow"
