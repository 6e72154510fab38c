"""The file tools where file systems end, fill up or take no changes; and a lookup at a DNS server that misbehaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.mounted import in_namespaces


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ws").mkdir()
    return tmp_path / "ws"


def test_fault_082_full_disk_is_an_answer_and_leaves_nothing_behind(root: Path) -> None:
    assert in_namespaces("full_disk", root) == {"said": ["no_space"] * 3, "names": ["old.txt"], "old": 40_000}


def test_fault_082_file_system_that_takes_no_changes_is_an_answer(root: Path) -> None:
    assert in_namespaces("read_only", root) == ["read_only"] * 6


def test_fault_081_mount_points_stay(root: Path) -> None:
    """Nothing of another file system is deleted, and nothing at all when a part would have to stay."""
    found = in_namespaces("mount_points", root)

    assert found["said"] == [*["denied"] * 4, "not_empty", "denied", "denied", "other_file_system"]
    assert found["kept"] == [
        *("outside", "outside/kept.txt", "ws", "ws/bind", "ws/bind/kept.txt"),
        *("ws/holder", "ws/holder/a.txt", "ws/holder/bind", "ws/holder/bind/kept.txt", "ws/tmp"),
    ]


def test_fault_087_folder_mounted_below_itself_is_counted_once(root: Path) -> None:
    left_out = {"partial": True, "left_out": "another file system"}

    assert in_namespaces("bind_loop", root) == [
        {"size_bytes": 1000, "size_human": "1000 B", **left_out},
        {"files": [f"{root}/a.txt"], "count": 1, **left_out},
    ]


def test_fault_071_dns_server_that_misbehaves_is_an_answer(tmp_path: Path) -> None:
    """Silence, no such name, a name that stands for itself, failure, 300 addresses, a private one among public ones."""
    found = in_namespaces("resolver", tmp_path)

    for name in ("silent", "nowhere", "circle", "broken"):
        assert found[f"{name}.example"] == "not_resolved"
    assert found["many.example"] == 20
    assert "192.168.0.1 is not a public address" in found["two-faced.example"]["note"]
