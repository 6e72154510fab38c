"""What is watched, and when somebody is told: real folders and real events, and looks that the test scripts."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.journal import Fact, Journal
from app.manifest.settle import stamp_of
from app.manifest.watch import Look, Watcher, WatchLost, folders_of

BOUND_S = 20.0
OFTEN_S, NEVER_S = 0.002, 3600.0
"""How often is looked without an event: where looks are what a test is about, and where events are."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose own path leads through no link."""
    return tmp_path.resolve()


# Which folders.


def test_plain_file_is_watched_by_its_folder(folder: Path) -> None:
    """Not by itself: a save that renames puts another file in its place. It need not be there yet."""
    assert folders_of(folder / "airlab.yaml") == (folder,)


def test_folders_of_all_links_in_the_chain_are_watched(folder: Path) -> None:
    for name in ("one", "two", "three"):
        (folder / name).mkdir()
    (folder / "three" / "real.yaml").write_text("")
    (folder / "two" / "second").symlink_to("../three/real.yaml")
    (folder / "one" / "airlab.yaml").symlink_to(folder / "two" / "second")
    assert folders_of(folder / "one" / "airlab.yaml") == (folder / "one", folder / "two", folder / "three")


def test_link_in_the_middle_of_the_path_is_watched_where_it_lies_and_where_it_leads(folder: Path) -> None:
    (folder / "real" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to("real")
    assert folders_of(folder / "link" / "deep" / "airlab.yaml") == (folder, folder / "real" / "deep")


def test_folder_that_kubernetes_swaps_is_watched_and_so_is_the_link_that_it_swaps(folder: Path) -> None:
    """airlab.yaml -> ..data/airlab.yaml, ..data -> ..v1, and a new ..data is renamed over the old one."""
    for name in ("..v1", "..v2"):
        (folder / name).mkdir()
        (folder / name / "airlab.yaml").write_text(name)
    (folder / "..data").symlink_to("..v1")
    file = folder / "airlab.yaml"
    file.symlink_to("..data/airlab.yaml")
    assert folders_of(file) == (folder, folder / "..v1")
    (folder / "..new").symlink_to("..v2")
    (folder / "..new").replace(folder / "..data")
    assert folders_of(file) == (folder, folder / "..v2")


def test_links_in_a_circle_come_to_an_end(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert folders_of(folder / "a") == (folder,)
    (folder / "deeper").symlink_to("deeper/still")
    assert folder in folders_of(folder / "deeper")


def test_link_to_nothing_is_watched_where_the_file_would_come(folder: Path) -> None:
    (folder / "airlab.yaml").symlink_to("later/airlab.yaml")
    assert folders_of(folder / "airlab.yaml") == (folder, folder / "later")


# When somebody is told.


class Looks:
    """Looks that are given in turn, the last one again and again, with a count of them."""

    def __init__(self, *looks: Look) -> None:
        self._looks = looks
        self.count = 0
        self.told_at: list[int] = []
        """How many looks there had been, each time that somebody was told."""
        self._moved = asyncio.Event()

    def __call__(self) -> Look:
        self.count += 1
        return self._looks[min(self.count, len(self._looks)) - 1]

    def changed(self) -> None:
        self.told_at.append(self.count)
        self._moved.set()

    async def until_told(self) -> None:
        async with asyncio.timeout(BOUND_S):
            await self._moved.wait()
            self._moved.clear()

    async def until(self, count: int) -> None:
        """So many looks have been taken, and all but the last one were answered."""
        async with asyncio.timeout(BOUND_S):
            while self.count < count:  # noqa: ASYNC110 # looks are taken in threads
                await asyncio.sleep(OFTEN_S)


class Facts(Journal):
    """What was noted. The loss of events is noted beside the looks, in no order with them."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[Fact] = []
        self._noted = asyncio.Event()
        self.subscribe(self._keep)

    async def until_noted(self) -> None:
        async with asyncio.timeout(BOUND_S):
            await self._noted.wait()

    def _keep(self, fact: Fact) -> None:
        self.facts.append(fact)
        self._noted.set()


@asynccontextmanager
async def watching(
    look: Callable[[], Look],
    changed: Callable[[], None],
    *,
    folders: Callable[[], Iterable[Path]] = tuple,
    every_s: float = OFTEN_S,
    journal: Journal | None = None,
) -> AsyncIterator[Watcher]:
    watcher = Watcher(look, folders, changed, journal or Journal(), every_s=every_s)
    await watcher.start()
    try:
        yield watcher
    finally:
        await watcher.close()


def at_once(*values: int) -> Sequence[Look]:
    return [Look(value, 0) for value in values]


def at_rest(*values: int) -> Sequence[Look]:
    return [Look(0, value) for value in values]


async def test_what_is_read_when_it_rests_is_reported_at_the_next_look() -> None:
    looks = Looks(*at_once(1, 1, 2))
    async with watching(looks, looks.changed):
        await looks.until_told()
        await looks.until(6)
    assert looks.told_at == [3], "once: nothing changed after that"


async def test_what_takes_minutes_to_copy_is_reported_when_two_looks_agree() -> None:
    looks = Looks(*at_rest(1, 2, 3, 4, 4))
    async with watching(looks, looks.changed):
        await looks.until_told()
        await looks.until(8)
    assert looks.told_at == [5]


async def test_every_change_that_comes_to_rest_is_reported() -> None:
    looks = Looks(*at_rest(1, 2, 2, 3, 3))
    async with watching(looks, looks.changed):
        await looks.until(8)
    assert looks.told_at == [3, 5]


async def test_what_is_again_as_it_was_before_it_came_to_rest_is_not_reported() -> None:
    looks = Looks(*at_rest(1, 2, 1))
    async with watching(looks, looks.changed):
        await looks.until(8)
    assert looks.told_at == []


async def test_manifest_is_reported_while_a_model_is_still_copied() -> None:
    """A download of half an hour must not hold up an edit."""
    looks = Looks(Look("old", 1), Look("old", 2), Look("new", 3), Look("new", 4), Look("new", 4))
    async with watching(looks, looks.changed):
        await looks.until(8)
    assert looks.told_at == [3, 5]


async def test_event_makes_the_next_look_come_at_once(folder: Path) -> None:
    """No look of its own comes here within the test's time."""
    file, told = folder / "airlab.yaml", asyncio.Event()
    async with watching(lambda: Look(stamp_of(file), 0), told.set, folders=lambda: [folder], every_s=NEVER_S):
        await _write_until(file, told)


async def test_event_in_a_folder_that_came_to_matter_later_is_seen(folder: Path) -> None:
    """What a link leads to now was not watched before it led there."""
    (folder / "real").mkdir()
    file, told = folder / "airlab.yaml", asyncio.Event()
    async with watching(lambda: Look(stamp_of(file), 0), told.set, folders=lambda: folders_of(file), every_s=NEVER_S):
        await _write_until(folder / "airlab.yaml", told)
        (folder / "link").symlink_to("real/airlab.yaml")
        (folder / "link").replace(file)
        await _write_until(folder / "real" / "airlab.yaml", told)


@pytest.mark.parametrize("leave", [shutil.rmtree, lambda home: home.rename(home.with_name("old"))])
async def test_folder_that_another_replaced_is_watched_like_the_old_one(
    folder: Path, leave: Callable[[Path], object]
) -> None:
    """As a checkout or an unpacked archive does it; the watch belongs to the folder, and not to its name."""
    home, told = folder / "home", asyncio.Event()
    home.mkdir()
    file = home / "airlab.yaml"
    async with watching(lambda: Look(stamp_of(file), 0), told.set, folders=lambda: [home], every_s=NEVER_S):
        await _write_until(file, told)
        leave(home)
        home.mkdir()
        await _write_until(file, told)
        await _write_until(file, told)


async def _write_until(file: Path, told: asyncio.Event) -> None:
    """Write until somebody is told: nothing says when the system has begun to watch."""
    told.clear()
    number = 0
    async with asyncio.timeout(BOUND_S):
        while not told.is_set():
            number += 1
            file.write_text("x" * number)  # noqa: ASYNC240 # a few bytes of a local file
            await asyncio.sleep(0.02)


async def test_folder_that_goes_and_comes_back_is_looked_at_all_the_same(folder: Path) -> None:
    home, told = folder / "home", asyncio.Event()
    home.mkdir()
    file = home / "airlab.yaml"
    file.write_text("one")
    async with watching(lambda: Look(stamp_of(file), 0), told.set, folders=lambda: [home]):
        for change in (file.unlink, home.rmdir, home.mkdir, lambda: file.write_text("two")):
            told.clear()
            change()
            if change in (home.rmdir, home.mkdir):
                continue  # nothing of the file changes by these
            async with asyncio.timeout(BOUND_S):
                await told.wait()


async def test_look_that_fails_is_no_news_and_the_next_one_counts() -> None:
    """A network file system that is away for a moment; the folder of the manifest without permissions."""
    seen = Looks(*at_once(1, 1, 2))
    calls = iter([False, True, False, True, True, False, True, False])

    def look() -> Look:
        if next(calls, False):
            raise PermissionError(13, "not now")
        return seen()

    async with watching(look, seen.changed):
        await seen.until_told()
        await seen.until(5)
    assert seen.told_at == [3]


async def test_folders_that_cannot_be_looked_at_cost_events_and_no_more() -> None:
    def folders() -> tuple[Path, ...]:
        raise OSError(116, "stale file handle")

    journal = Facts()
    looks = Looks(*at_once(1, 1, 2))
    async with watching(looks, looks.changed, folders=folders, journal=journal):
        await looks.until_told()
        await journal.until_noted()
    assert [type(fact) for fact in journal.facts] == [WatchLost]


@pytest.mark.parametrize("failure", [OSError(28, "no space left on device"), RuntimeError("out of watches")])
async def test_without_events_it_is_said_and_the_looks_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Watches are a limited thing: other programs of the same user may have taken them all."""

    async def awatch(*_paths: Path, **_options: object) -> AsyncIterator[set[object]]:
        raise failure
        yield set()

    monkeypatch.setattr("watchfiles.awatch", awatch)
    journal = Facts()
    looks = Looks(*at_once(1, 1, 1, 2))
    async with watching(looks, looks.changed, folders=lambda: [folder], journal=journal):
        await looks.until_told()
        await journal.until_noted()
    assert looks.told_at == [4]
    assert journal.facts == [WatchLost(str(failure), OFTEN_S)]


async def test_nobody_is_told_after_the_end() -> None:
    """Not even of a look that was being taken at that moment."""
    begun, may_end = threading.Event(), threading.Event()
    told: list[int] = []
    looks = iter([Look(1, 0), Look(2, 0)])

    def look() -> Look:
        seen = next(looks)
        if seen.at_once == 2:
            begun.set()
            may_end.wait(BOUND_S)
        return seen

    watcher = Watcher(look, tuple, lambda: told.append(1), Journal(), every_s=OFTEN_S)
    await watcher.start()
    try:
        async with asyncio.timeout(BOUND_S):
            await asyncio.to_thread(begun.wait, BOUND_S)
            await watcher.close()
    finally:
        may_end.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert told == []


async def test_end_before_the_beginning_is_no_trouble() -> None:
    await Watcher(lambda: Look(0, 0), tuple, lambda: None, Journal()).close()
