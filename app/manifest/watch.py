"""Says that the manifest, or what lies in models/, may have changed. Reads no contents and decides nothing.

Folders are watched and not the file: an editor that saves by renaming puts another file in its place. Events only make
the next look come at once; what is seen when looking counts. Where no events come (network file systems, some bind
mounts, no watch left to give) there is a look every two seconds all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from app.journal import Journal, Trouble

_LINKS = 40
"""As many links in a row as the kernel follows."""


@dataclass(frozen=True, slots=True)
class WatchLost(Trouble):
    """The system gives no events for these folders; changes are seen by looking only."""

    error: str
    every_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen in one look, to compare with the next."""

    at_once: Hashable
    """A change of this is reported at once: its reader waits by itself until it is at rest."""
    at_rest: Hashable
    """A change of this is reported when two looks in a row agree: a model file takes minutes to copy."""


def folders_of(file: Path) -> tuple[Path, ...]:
    """The folder of a file, and those of everything that its path leads through by links.

    Kubernetes' config maps swap a link in the middle of the path, and nothing happens to the file itself.
    """
    folders: dict[Path, None] = {}
    path = Path(os.path.abspath(file))  # noqa: PTH100 # resolve() would skip the links that are to be watched
    for _ in range(_LINKS):
        for part in (path, *path.parents):
            if part.is_symlink():
                folders[part.parent] = None
                # What follows the link in the path is looked at from where the link leads.
                path = Path(os.path.normpath(part.parent / part.readlink() / path.relative_to(part)))
                break
        else:
            break
    folders[path.parent] = None
    return tuple(folders)


class Watcher:
    """Looks at events and every few seconds, and calls back when something is not as it was."""

    def __init__(
        self,
        look: Callable[[], Look],
        folders: Callable[[], Iterable[Path]],
        changed: Callable[[], None],
        journal: Journal,
        *,
        every_s: float = 2.0,
    ) -> None:
        """Nothing is watched before ``start``.

        Args:
            look: Called in a thread; an OSError is a look that saw nothing, as when a network is away for a moment.
            folders: The folders that matter now; those that are missing are left out.
            changed: Called on the event loop.
            journal: Learns when events cannot be had.
            every_s: Time between two looks when no event comes.
        """
        self._look, self._folders, self._changed, self._journal = look, folders, changed, journal
        self._every_s = every_s
        self._stirred = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin; what is there now is the state that later looks are compared with."""
        seen = await asyncio.to_thread(self._look)
        self._tasks = [asyncio.create_task(self._keep_looking(seen)), asyncio.create_task(self._listen())]

    async def close(self) -> None:
        """End it; nothing calls back any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_looking(self, seen: Look) -> None:
        reported = last = seen
        while True:
            moving = last.at_rest != reported.at_rest
            if moving:
                # Not sooner for an event: a copy that goes on gives one after the other.
                await asyncio.sleep(min(self._every_s, 0.5))
            else:
                await self._wait(self._every_s)
            try:
                now = await asyncio.to_thread(self._look)
            except OSError:
                continue
            at_rest = now.at_rest if now.at_rest == last.at_rest else reported.at_rest
            last, before, reported = now, reported, Look(now.at_once, at_rest)
            if reported != before:
                self._changed()

    async def _wait(self, at_most_s: float) -> None:
        try:
            async with asyncio.timeout(at_most_s):
                await self._stirred.wait()
        except TimeoutError:
            return
        # One save gives several events.
        await asyncio.sleep(0.05)
        self._stirred.clear()

    async def _listen(self) -> None:
        # Imported here: it costs 70 ms that the first answer need not wait for.
        from watchfiles import awatch  # noqa: PLC0415

        while True:
            try:
                folders = await asyncio.to_thread(self._present_folders)
                # One call wakes its thread every 50 ms; shorter steps would cost the service more than they gain.
                async with contextlib.aclosing(
                    awatch(*folders, watch_filter=None, debounce=100, recursive=False, yield_on_timeout=True)
                ) as events:
                    async for changes in events:
                        if changes:
                            self._stirred.set()
                        # A folder that was moved away or deleted takes its watch along, whatever stands there now.
                        gone = any(Path(path) in folders for _, path in changes)
                        if gone or await asyncio.to_thread(self._present_folders) != folders:
                            break
            except (OSError, RuntimeError) as exc:
                # Out of watches, or a folder that vanished between the two lines: the looks go on by themselves.
                self._journal.note(WatchLost(str(exc), self._every_s))
                await asyncio.sleep(30)
            self._stirred.set()

    def _present_folders(self) -> tuple[Path, ...]:
        return tuple(folder for folder in dict.fromkeys(self._folders()) if folder.is_dir())
