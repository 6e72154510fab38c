"""Small files: replaced so that whoever reads finds all of the old one or all of the new one; read without waiting."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.files import read_regular, replace_file

OLD, NEW = b"old", b"new and longer"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "airlab.yaml"
    file.write_bytes(OLD)
    return file


def untouched(file: Path) -> bool:
    """The old one is there as it was, and nothing beside it."""
    return file.read_bytes() == OLD and [entry.name for entry in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_file_is_replaced_with_the_permissions_asked_for(file: Path, mode: int) -> None:
    file.chmod(0o666)
    replace_file(file, NEW, mode=mode)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (NEW, mode)
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_file_that_was_not_there_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    replace_file(tmp_path / "new", NEW)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_reader_of_the_old_file_reads_it_to_its_end(file: Path) -> None:
    with file.open("rb") as reader:
        inode = os.fstat(reader.fileno()).st_ino
        replace_file(file, NEW)
        assert reader.read() == OLD
    assert file.stat().st_ino != inode


def test_link_is_replaced_and_what_it_leads_to_is_left_alone(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    replace_file(link, NEW)
    assert (link.is_symlink(), link.read_bytes(), file.read_bytes()) == (False, NEW, OLD)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_owner_is_kept_where_that_is_allowed(file: Path) -> None:
    replace_file(file, NEW, owner=(12345, 23456))
    info = file.stat()
    assert (info.st_uid, info.st_gid) == (12345, 23456)


def test_owner_that_may_not_be_given_is_no_failure(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is still tried when the user was refused."""
    asked: list[tuple[int, int]] = []

    def refuse(_descriptor: int, user: int, group: int) -> None:
        asked.append((user, group))
        raise PermissionError(errno.EPERM, "not allowed")

    monkeypatch.setattr(os, "fchown", refuse)
    replace_file(file, NEW, owner=(1, 2))
    assert asked == [(1, -1), (-1, 2)]
    assert file.read_bytes() == NEW


def test_last_word_is_asked_when_all_is_on_the_disk_and_can_still_stop_it(file: Path) -> None:
    beside: list[bytes] = []

    def stop() -> None:
        beside.extend(entry.read_bytes() for entry in file.parent.iterdir() if entry != file)
        raise RuntimeError("somebody else was faster")

    with pytest.raises(RuntimeError, match="somebody else was faster"):
        replace_file(file, NEW, last=stop)
    assert beside == [NEW]
    assert untouched(file)


@pytest.mark.parametrize("step", ["fsync", "fchmod"])
def test_step_that_fails_leaves_the_old_file_and_nothing_beside_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="the disk is broken"):
        replace_file(file, NEW)
    assert untouched(file)


def test_everything_is_on_the_disk_before_the_name_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loss of power leaves an empty file under the right name; and the folder after it, or an old name."""
    flushed: list[tuple[str, bytes]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        flushed.append((kind, file.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    replace_file(file, NEW)
    assert flushed == [("file", OLD), ("folder", NEW)]


def test_folder_that_cannot_be_flushed_is_no_failure(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced by then; who was told that it was not would be told wrong."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    replace_file(file, NEW)
    assert file.read_bytes() == NEW


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few pages; where none may be mounted, the test is left out."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    may = os.geteuid() == 0 and shutil.which("mount") is not None
    if not may or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system may not be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_fault_116_full_disk_leaves_the_old_file_and_nothing_beside_it(small_disk: Path) -> None:
    """Writing in place would have cut it."""
    file = small_disk / "airlab.yaml"
    file.write_bytes(OLD)
    with pytest.raises(OSError, match="No space left") as full:
        replace_file(file, b"x" * 64 * 1024)
    assert full.value.errno == errno.ENOSPC
    assert untouched(file)
    replace_file(file, NEW)
    assert file.read_bytes() == NEW


def test_folder_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "nowhere" / "file", NEW)


def test_of_a_long_file_no_more_is_read_than_shows_that_it_is_too_long(file: Path) -> None:
    file.chmod(0o640)
    assert read_regular(file, most_bytes=3) == (OLD, 0o640)
    assert read_regular(file, most_bytes=1) == (OLD[:2], 0o640)


def test_fifo_in_the_place_of_a_file_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        read_regular(tmp_path / "pipe", most_bytes=10)
