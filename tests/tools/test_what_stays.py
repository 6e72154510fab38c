"""What no tool changes or takes away: what links lead to, what is protected, roots, full folders; and what may go."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

import pytest

from app.tools.base import Confinement
from app.tools.builtin.copy_file import copy_file
from app.tools.builtin.create_directory import create_directory
from app.tools.builtin.delete_file import delete_file
from app.tools.builtin.move_file import move_file
from app.tools.builtin.write_file import write_file
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


def test_fault_075_change_through_a_link_is_refused(root: Path, inside: Confinement) -> None:
    """A link that leads nowhere yet is how a write would make a file outside."""
    outside = root.parent / "outside"
    (root / "dangling").symlink_to(outside / "new.txt")
    (root / "out").symlink_to(outside, target_is_directory=True)
    (root / "file").symlink_to("../outside/secret.txt")
    (root / "mine.txt").write_text("mine")
    before = fingerprint(root.parent)

    for name in ("dangling", "out/new.txt", "out/secret.txt", "file"):
        path = f"{root}/{name}"
        expected = "denied" if "/" in name else "not_regular_file"
        assert code_of(write_file, path, "x", inside=inside) == expected, name
        assert code_of(copy_file, f"{root}/mine.txt", path, overwrite=True, inside=inside) == expected, name
        assert code_of(move_file, f"{root}/mine.txt", path, overwrite=True, inside=inside) == expected, name
        assert code_of(create_directory, f"{path}/x", parents=True, inside=inside) in {"denied", "exists"}, name
    for name in ("out/secret.txt", "file", "dangling"):
        assert code_of(move_file, f"{root}/{name}", f"{root}/x", inside=inside) in {"denied", "not_regular_file"}
        assert code_of(copy_file, f"{root}/{name}", f"{root}/x", inside=inside) == "denied"
    assert code_of(delete_file, f"{root}/out/secret.txt", inside=inside) == "denied"
    assert fingerprint(root.parent) == before


def test_link_itself_can_be_deleted(root: Path, inside: Confinement) -> None:
    (root / "file").symlink_to("../outside/secret.txt")

    assert delete_file(str(root / "file"), inside=inside) == {"status": "ok"}
    assert (root.parent / "outside" / "secret.txt").read_text() == SECRET
    assert names_in(root) == []


def test_nothing_is_changed_below_a_root_to_read(root: Path) -> None:
    """The innermost root counts, also where a link leads into it."""
    (root / "books").mkdir()
    (root / "books" / "a.txt").write_text("kept")
    (root / "way").symlink_to("books")
    (root / "mine.txt").write_text("mine")
    inside = open_to_tools(root, read_only=[root / "books"])
    before = fingerprint(root)

    for folder in ("books", "way"):
        path = f"{root}/{folder}/a.txt"
        assert code_of(write_file, path, "x", inside=inside) == "denied"
        assert code_of(move_file, path, f"{root}/b.txt", inside=inside) == "denied"
        assert code_of(move_file, f"{root}/mine.txt", path, overwrite=True, inside=inside) == "denied"
        assert code_of(delete_file, path, inside=inside) == "denied"
        assert code_of(create_directory, f"{root}/{folder}/new", inside=inside) == "denied"
    assert code_of(delete_file, f"{root}/books", recursive=True, inside=inside) == "denied"
    assert code_of(move_file, f"{root}/books", f"{root}/b", inside=inside) == "denied"
    assert fingerprint(root) == before
    assert copy_file(f"{root}/way/a.txt", f"{root}/b.txt", inside=inside) == {"status": "ok"}


def test_nothing_is_changed_where_nothing_is_writable(root: Path) -> None:
    inside = Confinement("fs_write", read=(PurePosixPath(root),))

    assert "writable root" in refusal(write_file, str(root / "a.txt"), "x", inside=inside).message


def test_refusal_names_the_folder_to_choose(root: Path, inside: Confinement) -> None:
    assert f"Choose a path under {root}." in refusal(write_file, "/etc/passwd", "x", inside=inside).message
    assert "create_directory" in refusal(write_file, f"{root}/no/a.txt", "x", inside=inside).message


@pytest.mark.parametrize("reach", ["secrets", "deep/secrets"])
def test_fault_080_protected_place_inside_the_root_stays(root: Path, reach: str) -> None:
    secrets = root / reach
    secrets.mkdir(parents=True)
    (secrets / "key").write_text(SECRET)
    top = root / reach.partition("/")[0]
    (root / "way").symlink_to(reach)
    (root / "mine.txt").write_text("mine")
    (root / "folder").mkdir()
    inside = open_to_tools(root, protected=[secrets])
    before = fingerprint(root)

    for path in (f"{secrets}/key", f"{root}/way/key", str(secrets)):
        assert code_of(delete_file, path, recursive=True, inside=inside) == "denied"
        assert code_of(move_file, path, f"{root}/x", inside=inside) == "denied"
        assert code_of(copy_file, path, f"{root}/x", inside=inside) == "denied"
        assert code_of(write_file, path, "x", inside=inside) == "denied"
        assert code_of(move_file, f"{root}/mine.txt", path, overwrite=True, inside=inside) == "denied"
    assert code_of(create_directory, f"{secrets}/new", inside=inside) == "denied"
    assert code_of(delete_file, str(top), recursive=True, inside=inside) == "denied"
    assert code_of(move_file, str(top), f"{root}/moved", inside=inside) == "denied"
    assert code_of(copy_file, str(top), f"{root}/copied", inside=inside) == "denied"
    assert fingerprint(root) == before


def test_fault_080_protected_place_that_is_not_there_yet_cannot_be_made(root: Path) -> None:
    """Neither by its name, nor by moving a folder that holds it onto the way to it."""
    (root / "hooks_in" / "hooks").mkdir(parents=True)
    inside = open_to_tools(root, protected=[root / "git" / "hooks"])

    assert code_of(move_file, f"{root}/hooks_in", f"{root}/git", inside=inside) == "denied"
    assert code_of(create_directory, f"{root}/git/hooks/x", parents=True, inside=inside) == "denied"
    assert code_of(write_file, f"{root}/git/hooks", "x", inside=inside) == "denied"
    assert not (root / "git" / "hooks").exists()


def test_fault_081_root_and_full_folders_are_not_deleted(root: Path, inside: Confinement) -> None:
    (root / "full").mkdir()
    (root / "full" / "a.txt").touch()
    (root / "self").symlink_to(".")
    before = fingerprint(root.parent)

    for path in (str(root), "/", str(root.parent)):
        assert code_of(delete_file, path, recursive=True, inside=inside) == "denied"
    assert code_of(delete_file, f"{root}/full", inside=inside) == "not_empty"
    assert code_of(delete_file, f"{root}/nope", inside=inside) == "not_found"
    assert fingerprint(root.parent) == before


def test_fault_081_root_below_another_root_is_not_deleted_by_another_name(root: Path) -> None:
    (root / "inner").mkdir()
    (root / "self").symlink_to(".")
    inside = open_to_tools(root, read_only=[root / "inner"])

    assert code_of(delete_file, f"{root}/self/inner", recursive=True, inside=inside) == "denied"
    assert code_of(move_file, f"{root}/self/inner", f"{root}/x", inside=inside) == "denied"


def test_delete_needs_permission(root: Path, careful: Confinement) -> None:
    (root / "a.txt").touch()

    assert code_of(delete_file, str(root / "a.txt"), inside=careful) == "needs_permission"
    assert names_in(root) == ["a.txt"]


def test_file_an_empty_folder_and_a_whole_tree_are_deleted(root: Path, inside: Confinement) -> None:
    (root / "a.txt").touch()
    (root / "empty").mkdir()
    for name in ("tree", "tree/b", "tree/b/c", "tree/d"):
        (root / name).mkdir()
        (root / name / os.fsdecode(b"caf\xe9")).touch()
    (root / "tree" / "b" / "out").symlink_to(root.parent / "outside")

    for name, recursive in (("a.txt", False), ("empty", False), ("tree", True)):
        assert delete_file(str(root / name), recursive=recursive, inside=inside) == {"status": "ok"}

    assert names_in(root) == []
    assert (root.parent / "outside" / "secret.txt").read_text() == SECRET


def test_tree_that_holds_what_stays_is_not_deleted_in_part(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "tree" / "a" / "b").mkdir(parents=True)
    (root / "tree" / "a.txt").touch()
    os.mkfifo(root / "tree" / "a" / "fifo")
    inside = open_to_tools(root)
    before = fingerprint(root)

    assert code_of(delete_file, f"{root}/tree", recursive=True, inside=inside) == "denied"
    assert code_of(delete_file, f"{root}/tree/a/fifo", inside=inside) == "not_regular_file"
    (root / "tree" / "a" / "fifo").unlink()
    before = fingerprint(root)
    monkeypatch.setattr("app.tools.worker.walk.ENTRIES", 2)
    assert "after 2 entries" in refusal(delete_file, f"{root}/tree", recursive=True, inside=inside).message
    assert fingerprint(root) == before


def test_deleting_that_breaks_off_says_so(root: Path, inside: Confinement, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "tree" / "a").mkdir(parents=True)
    (root / "tree" / "a.txt").touch()

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "unlink", fail)

    problem = refusal(delete_file, f"{root}/tree", recursive=True, inside=inside)
    assert (problem.code, "in part only: Permission denied" in problem.message) == ("incomplete", True)
    assert names_in(root / "tree") == ["a.txt"]
