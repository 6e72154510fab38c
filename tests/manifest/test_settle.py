"""When a file that may be half written is read: real files, and no pause is waited for but counted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.manifest import settle
from app.manifest.load import read_bytes
from app.manifest.problems import ManifestProblems
from app.manifest.settle import Quiet, read_settled, stamp_of

BOUND_S = 20.0
RENAMED_S, WRITTEN_S = 0.25, 0.75
QUIET = Quiet(RENAMED_S, WRITTEN_S, missing_s=BOUND_S, most_s=BOUND_S)
Act = Callable[[], object]


class World:
    """What happens to the file meanwhile, and how long was waited for it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.pauses: list[float] = []
        self.after_reads: list[Act] = []
        """Done in turn, one after each read, also one that failed."""
        self.in_pauses: list[Act] = []
        """Done in turn, one in each pause."""

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self.in_pauses:
            self.in_pauses.pop(0)()

    def read(self, file: Path) -> bytes:
        try:
            return read_bytes(file)
        finally:
            if self.after_reads:
                self.after_reads.pop(0)()

    def append(self, text: str) -> None:
        with self.file.open("a") as opened:
            opened.write(text)

    def rename_over(self, text: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "airlab.yaml")
    monkeypatch.setattr(settle, "read_bytes", world.read)
    monkeypatch.setattr("app.manifest.settle.asyncio.sleep", world.pause)
    return world


async def test_file_that_rests_is_read_with_its_stamp(world: World) -> None:
    world.file.write_text("version: 1\n")
    assert await read_settled(world.file, None, QUIET) == (b"version: 1\n", stamp_of(world.file))
    assert world.pauses == [RENAMED_S]


async def test_file_that_was_renamed_into_place_needs_the_short_pause_only(world: World) -> None:
    world.file.write_text("old")
    known = stamp_of(world.file)
    world.rename_over("new")
    assert (await read_settled(world.file, known, QUIET))[0] == b"new"
    assert world.pauses == [RENAMED_S]


async def test_file_that_is_known_as_it_is_needs_the_short_pause_only(world: World) -> None:
    world.file.write_text("as it was")
    await read_settled(world.file, stamp_of(world.file), QUIET)
    assert world.pauses == [RENAMED_S]


async def test_file_that_grows_in_place_is_read_when_it_grows_no_more(world: World) -> None:
    """Its first half may be a manifest, too: one with fewer models."""
    world.file.write_text("a")
    known = stamp_of(world.file)
    world.append("b")
    world.after_reads = [lambda: world.append("c"), lambda: None, lambda: world.append("d")]
    data, stamp = await read_settled(world.file, known, QUIET)
    assert (data, stamp) == (b"abcd", stamp_of(world.file))
    assert world.pauses == [WRITTEN_S] * 3


async def test_change_that_no_stamp_shows_is_seen_by_the_bytes(world: World) -> None:
    """A file system whose clock goes in steps of two seconds."""
    world.file.write_text("one")
    info = world.file.stat()

    def rewrite() -> None:
        world.file.write_text("two")
        os.utime(world.file, ns=(info.st_atime_ns, info.st_mtime_ns))

    world.after_reads = [rewrite]
    assert (await read_settled(world.file, stamp_of(world.file), QUIET))[0] == b"two"


async def test_of_two_saves_in_a_row_the_second_is_read(world: World) -> None:
    world.file.write_text("one")
    world.in_pauses = [lambda: world.rename_over("two"), lambda: world.rename_over("three")]
    assert (await read_settled(world.file, None, QUIET))[0] == b"three"


async def test_fault_020_file_that_is_gone_for_a_moment_is_waited_for(world: World) -> None:
    """Some editors delete before they write."""
    world.in_pauses = [lambda: None, lambda: world.file.write_text("back")]
    assert (await read_settled(world.file, None, QUIET))[0] == b"back"
    assert sum(world.pauses[:2]) < QUIET.missing_s


async def test_file_that_is_deleted_between_two_reads_is_waited_for(world: World) -> None:
    world.file.write_text("before")
    world.in_pauses = [world.file.unlink, lambda: world.file.write_text("after")]
    assert (await read_settled(world.file, stamp_of(world.file), QUIET))[0] == b"after"


async def test_file_that_stays_away_is_said_to_be_missing(world: World) -> None:
    with pytest.raises(ManifestProblems, match="does not exist"):
        await read_settled(world.file, None, Quiet(RENAMED_S, WRITTEN_S, missing_s=0.0, most_s=BOUND_S))


async def test_file_that_never_rests_is_refused(world: World) -> None:
    world.file.write_text("a")
    world.after_reads = [lambda: world.append("a")] * 100_000
    with pytest.raises(ManifestProblems, match="is being written without a pause") as refused:
        await read_settled(world.file, None, Quiet(0.0, 0.0, 0.0, most_s=0.2))
    assert "to fix:  save it once, and wait" in refused.value.message


async def test_fault_026_pipe_is_refused_and_nobody_waits_for_its_writer(world: World) -> None:
    os.mkfifo(world.file)
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(ManifestProblems, match="is not a regular file"):
            await read_settled(world.file, None, QUIET)
    assert world.pauses == []


async def test_pipe_that_turns_into_a_file_is_read(world: World) -> None:
    os.mkfifo(world.file)
    world.after_reads = [lambda: world.rename_over("a file")]
    assert (await read_settled(world.file, None, QUIET))[0] == b"a file"


def test_stamp_follows_links_and_tells_versions_apart(world: World, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(world.file)
    assert stamp_of(link) is None
    world.file.write_text("one")
    first = stamp_of(link)
    assert first == stamp_of(world.file) is not None
    world.rename_over("two")
    assert stamp_of(link) != first


def test_path_that_can_name_no_file_has_no_stamp() -> None:
    assert stamp_of(Path("airlab\0.yaml")) is None
