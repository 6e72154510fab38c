"""From the manifest's ``policy`` to the rules in force, and what is wrong with it by file, line and column."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from app.devices.probe import Host
from app.live.guards import in_force, policy_for
from app.live.inputs import first_snapshot
from app.manifest.load import parse_manifest
from app.manifest.problems import ManifestProblems
from app.policy.paths import PROTECTED_UNDER_WSL
from app.policy.rules import Policy
from app.settings import Settings
from app.tools.base import Limits, Protected
from tests.support.manifest import loaded

MODELS: dict[str, Any] = {"m": {"filename": "m.gguf"}}


def read(home: Path, section: dict[str, Any], *, wsl: bool = False) -> Policy:
    return policy_for(loaded("m", MODELS, policy=section), home, home / ".airlab", wsl=wsl)


def test_every_rule_of_the_file_is_in_force(tmp_path: Path) -> None:
    section = {
        "sandbox": "degraded",
        "roots": [{"path": "in", "access": "read"}, {"path": str(tmp_path / "out")}],
        "protected": [{"tree": "out/secret"}, {"exact": "/srv/x"}],
        "network": {"allow_private": ["192.168.1.0/24"], "ports": [443]},
        "destructive": "deny",
        "limits": {"read": "1KiB", "write": "2KiB", "results": 3, "call": "4s", "turn": "5s"},
    }
    policy = read(tmp_path, section)

    assert [(str(root.path), root.access) for root in policy.roots] == [
        (f"{tmp_path}/in", "read"),
        (f"{tmp_path}/out", "write"),
    ]
    assert {
        Protected(PurePosixPath(tmp_path / "out" / "secret"), "tree"),
        Protected(PurePosixPath("/srv/x"), "exact"),
        Protected(PurePosixPath("/etc"), "tree"),
    } <= set(policy.protected)
    assert (policy.sandbox, policy.destructive, policy.turn_s) == ("degraded", "deny", 5.0)
    assert (policy.allow_private, policy.ports) == (("192.168.1.0/24",), (443,))
    assert policy.limits == Limits(read_bytes=1024, write_bytes=2048, results=3, call_s=4.0)


def test_file_that_says_nothing_asks_before_anything_is_taken_away(tmp_path: Path) -> None:
    policy = read(tmp_path, {})

    assert (policy.sandbox, policy.destructive, policy.allow_private) == ("required", "ask", ())
    assert policy.limits == Limits()


def test_own_places_are_protected_whatever_the_roots_are(tmp_path: Path) -> None:
    """The manifest says what tools may do, and ``tools/`` holds programs that will be run."""
    manifest = tmp_path / "airlab.yaml"
    text = json.dumps({"version": 1, "default_model": "m", "models": MODELS, "policy": {"roots": []}})
    policy = policy_for(parse_manifest(text.encode(), name=str(manifest)), tmp_path, tmp_path / ".airlab")
    protected = {entry.path for entry in policy.protected if entry.reach == "tree"}

    assert {PurePosixPath(tmp_path / name) for name in (".airlab", "airlab.yaml", "models", "tools")} <= protected


@pytest.mark.parametrize("root", [".", "tools", "tools/mine", "models/custom", "airlab.yaml"])
def test_root_on_an_own_place_is_refused(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ManifestProblems, match="AirLab's own"):
        read(tmp_path, {"roots": [{"path": root}]})


def test_protected_link_protects_itself_and_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "workspace" / "real").mkdir(parents=True)
    (tmp_path / "workspace" / "link").symlink_to("real")
    protected = {entry.path for entry in read(tmp_path, {"protected": [{"tree": "workspace/link"}]}).protected}

    assert {PurePosixPath(tmp_path / "workspace" / name) for name in ("link", "real")} <= protected


def test_windows_paths_count_under_wsl(tmp_path: Path) -> None:
    section = {"protected": [{"tree": "D:\\Private"}, {"exact": "c:/keys.txt"}]}
    policy = read(tmp_path, section, wsl=True)

    assert policy.wsl
    assert set(PROTECTED_UNDER_WSL) <= set(policy.protected)
    assert Protected(PurePosixPath("/mnt/d/Private"), "tree") in policy.protected
    assert Protected(PurePosixPath("/mnt/c/keys.txt"), "exact") in policy.protected
    assert not set(PROTECTED_UNDER_WSL) & set(read(tmp_path, section).protected)


def test_every_problem_of_the_policy_is_told_with_its_place(tmp_path: Path) -> None:
    text = """\
version: 1
default_model: m
models: {m: {filename: m.gguf}}
tools: {builtin: [read_fil]}
policy:
  roots:
    - {path: workspace}
    - {path: /etc}
  protected:
    - {tree: 'C:\\PROGRA~1'}
"""
    with pytest.raises(ManifestProblems) as refused:
        policy_for(parse_manifest(text.encode(), name="airlab.yaml"), tmp_path, tmp_path / ".airlab")

    assert [(problem.line, problem.column) for problem in refused.value.problems] == [(4, 19), (8, 14), (10, 14)]
    assert "may be a short name" in refused.value.message


def test_switch_takes_all_tools_and_says_why(tmp_path: Path) -> None:
    """A call that waits for a person is judged by this, too, once it is allowed."""
    settings = Settings(manifest=tmp_path / "airlab.yaml", profile=None)
    snapshot = first_snapshot(loaded("m", MODELS), settings, Host(cores=4, can_offload=False))
    off = in_force(replace(snapshot, tools_on=False))

    assert in_force(snapshot) is snapshot.policy
    assert (dict(off.tools), off.closed) == ({}, "tools are switched off (POST /command tools on)")
