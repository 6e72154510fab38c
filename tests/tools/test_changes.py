"""The tools that write, move, copy and make folders do so, whole or not at all; called as the worker calls them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from app.tools.base import Confinement, Limits
from app.tools.builtin.copy_file import copy_file
from app.tools.builtin.create_directory import create_directory
from app.tools.builtin.move_file import move_file
from app.tools.builtin.write_file import write_file
from app.tools.worker import calls
from tests.tools.places import (
    SECRET,
    code_of,
    fingerprint,
    names_in,
    open_to_tools,
    refusal,
    root_beside_a_secret,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return root_beside_a_secret(tmp_path)


@pytest.fixture
def inside(root: Path) -> Confinement:
    return open_to_tools(root)


@pytest.fixture
def careful(root: Path) -> Confinement:
    """Without permission to take anything away, as a call has it before somebody was asked."""
    return open_to_tools(root, may_destroy=False)


def test_lines_become_a_file_and_their_bytes_are_counted(root: Path, careful: Confinement) -> None:
    for lines, text in ((["a", "ü", "c\n"], "a\nü\nc\n"), ("one\ntext", "one\ntext"), ([], ""), ("", "")):
        path = root / f"{len(text)}{type(lines).__name__}.txt"
        assert write_file(str(path), lines, inside=careful) == {
            "status": "ok",
            "bytes_written": len(text.encode()),
        }
        assert path.read_text() == text
        assert stat.S_IMODE(path.stat().st_mode) & 0o133 == 0
    assert not [name for name in names_in(root) if name.startswith(".")]


def test_overwriting_needs_permission_and_then_keeps_the_permissions_of_the_file(
    root: Path, inside: Confinement, careful: Confinement
) -> None:
    (root / "a.sh").write_text("old")
    (root / "a.sh").chmod(0o4750)

    problem = refusal(write_file, str(root / "a.sh"), "new", inside=careful)

    assert (problem.code, f"{root}/a.sh exists (3 B)" in problem.message) == ("needs_permission", True)
    assert (root / "a.sh").read_text() == "old"
    assert write_file(str(root / "a.sh"), "new", inside=inside)["status"] == "ok"
    assert (root / "a.sh").read_text() == "new"
    assert stat.S_IMODE((root / "a.sh").stat().st_mode) == 0o750


def test_overwriting_one_of_two_names_of_a_file_leaves_the_other(root: Path, inside: Confinement) -> None:
    """The other name may lie outside: to write into the file in place would change it there."""
    (root / "a.txt").hardlink_to(root.parent / "outside" / "secret.txt")

    write_file(str(root / "a.txt"), "new", inside=inside)

    assert (root.parent / "outside" / "secret.txt").read_text() == SECRET


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nope/a.txt", "not_found"),
        ("folder", "not_regular_file"),
        ("fifo", "not_regular_file"),
        ("socket", "not_regular_file"),
        ("file/a.txt", "not_a_folder"),
        ("a" * 256, "invalid_path"),
        ("../outside/new.txt", "invalid_path"),
        ("", "denied"),
    ],
)
def test_fault_082_write_to_what_cannot_be_written_is_refused(
    root: Path, inside: Confinement, name: str, code: str
) -> None:
    (root / "folder").mkdir()
    (root / "file").write_text("kept")
    os.mkfifo(root / "fifo")
    here = Path.cwd()
    os.chdir(root)  # a socket's whole path may be too long for its address
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            before = fingerprint(root.parent)
            assert code_of(write_file, f"{root}/{name}", ["x"], inside=inside) == code
    finally:
        os.chdir(here)
    assert fingerprint(root.parent) == before


def test_fault_082_failure_in_the_middle_leaves_nothing(
    root: Path, inside: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither half a file nor the temporary one; what was there stays whole."""
    (root / "a.txt").write_text("old")
    before = fingerprint(root)["a.txt"]

    def fail(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", fail)

    assert code_of(write_file, str(root / "a.txt"), "new", inside=inside) == "no_space"
    assert code_of(write_file, str(root / "b.txt"), "new", inside=inside) == "no_space"
    assert code_of(copy_file, str(root / "a.txt"), str(root / "c.txt"), inside=inside) == "no_space"
    assert names_in(root) == ["a.txt"]
    assert fingerprint(root)["a.txt"] == before


def test_more_than_the_limit_is_not_written(root: Path) -> None:
    inside = open_to_tools(root, limits=Limits(write_bytes=10))
    (root / "long.txt").write_text("x" * 11)

    assert write_file(str(root / "a.txt"), "x" * 10, inside=inside)["bytes_written"] == 10
    assert code_of(write_file, str(root / "b.txt"), "x" * 11, inside=inside) == "too_large"
    assert code_of(copy_file, str(root / "long.txt"), str(root / "b.txt"), inside=inside) == "too_large"
    assert names_in(root) == ["a.txt", "long.txt"]


def test_half_a_character_is_refused(root: Path, inside: Confinement) -> None:
    assert code_of(write_file, str(root / "a.txt"), ["\ud800"], inside=inside) == "invalid_arguments"
    assert names_in(root) == []


def test_file_and_folder_are_moved(root: Path, careful: Confinement) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "a.txt").write_text("a")

    assert move_file(f"{root}/folder/a.txt", f"{root}/b.txt", inside=careful) == {"status": "ok"}
    assert move_file(f"{root}/folder", f"{root}/renamed", inside=careful) == {"status": "ok"}
    assert names_in(root) == ["b.txt", "renamed"]
    assert (root / "b.txt").read_text() == "a"


def test_move_and_copy_onto_something_need_overwrite_and_permission(
    root: Path, inside: Confinement, careful: Confinement
) -> None:
    for tool in (move_file, copy_file):
        (root / "a.txt").write_text("a")
        (root / "b.txt").write_text("b")
        paths = (f"{root}/a.txt", f"{root}/b.txt")

        assert code_of(tool, *paths, inside=inside) == "exists"
        assert code_of(tool, *paths, overwrite=True, inside=careful) == "needs_permission"
        assert (root / "b.txt").read_text() == "b"
        assert tool(*paths, overwrite=True, inside=inside) == {"status": "ok"}
        assert (root / "b.txt").read_text() == "a"


def test_move_or_copy_that_makes_no_sense_is_refused(root: Path, inside: Confinement) -> None:
    (root / "a.txt").write_text("a")
    (root / "same.txt").hardlink_to(root / "a.txt")
    (root / "folder" / "below").mkdir(parents=True)
    before = fingerprint(root)

    for source, dest, code in (
        ("nope", "x", "not_found"),
        ("a.txt", "a.txt", "exists"),
        ("a.txt", "same.txt", "exists"),
        ("a.txt", "folder", "not_regular_file"),
        ("folder", "a.txt", "exists"),
        ("folder", "folder/below/x", "not_possible"),
        ("a.txt", "nope/a.txt", "not_found"),
        ("", "x", "denied"),
        ("a.txt", "", "denied"),
    ):
        assert code_of(move_file, f"{root}/{source}", f"{root}/{dest}", overwrite=True, inside=inside) == code
    assert code_of(copy_file, f"{root}/folder", f"{root}/x", inside=inside) == "not_regular_file"
    assert {name: kept[4] for name, kept in fingerprint(root).items()} == {
        name: kept[4] for name, kept in before.items()
    }


def test_copy_gives_nobody_more_than_the_source(root: Path, inside: Confinement) -> None:
    for number, (mode, expected) in enumerate(((0o4755, 0o755), (0o600, 0o600), (0o666, 0o644))):
        source, copied = root / f"{number}.txt", root / f"{number}.copy"
        source.write_text("a")
        source.chmod(mode)

        assert copy_file(str(source), str(copied), inside=inside) == {"status": "ok"}
        assert stat.S_IMODE(copied.stat().st_mode) == expected


def test_folders_are_made(root: Path, careful: Confinement) -> None:
    assert create_directory(f"{root}/a/", inside=careful) == {"status": "ok", "path": f"{root}/a"}
    assert create_directory(f"{root}/b/c/d", parents=True, inside=careful)["status"] == "ok"
    assert create_directory(f"{root}/b/c/d", parents=True, inside=careful)["status"] == "ok"
    assert (root / "b" / "c" / "d").is_dir()


def test_folder_that_cannot_be_made_is_refused(root: Path, careful: Confinement) -> None:
    (root / "a").mkdir()
    (root / "file").touch()

    for path, parents, code in (
        ("a", False, "exists"),
        ("b/c", False, "not_found"),
        ("file", True, "exists"),
        ("file/a", True, "exists"),
        ("/".join("x" * 40), True, "invalid_path"),
        ("", True, "denied"),
    ):
        assert code_of(create_directory, f"{root}/{path}", parents=parents, inside=careful) == code, path
    assert names_in(root) == ["a", "file"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_file_system_that_cannot_promise_to_overwrite_nothing(
    root: Path, inside: Confinement, monkeypatch: pytest.MonkeyPatch, *, is_folder: bool
) -> None:
    """Windows folders under WSL2 and some network file systems know no RENAME_NOREPLACE."""

    def cannot(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(calls, "rename_unless_there", cannot)
    if is_folder:
        (root / "a").mkdir()
    else:
        write_file(f"{root}/a", "a", inside=inside)
    write_file(f"{root}/taken", "kept", inside=inside)

    assert code_of(move_file, f"{root}/a", f"{root}/taken", inside=inside) == "exists"
    assert move_file(f"{root}/a", f"{root}/b", inside=inside) == {"status": "ok"}
    if is_folder:
        assert code_of(move_file, f"{root}/b", f"{root}/b/c", inside=inside) == "not_possible"
    assert names_in(root) == ["b", "taken"]
    assert (root / "taken").read_text() == "kept"
