"""Owns download jobs: one for each source, whoever asks for it, and however often.

A job belongs to the server: a client that goes away ends none. Jobs are not written down; what a stopped or cancelled
one brought lies in its partial file, and asking again goes on from there. Knows neither HTTP routes nor what runs.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from app.errors import AirLabError, BadRequestError, DownloadError, DownloadNotFoundError
from app.journal import Journal
from app.manifest.schema import ModelSection
from app.settings import Settings
from app.units import MIB
from app.weights.gguf import read_header
from app.weights.hub import MAX_FILE_BYTES, RemoteFile
from app.weights.jobs import (
    DownloadCancelled,
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    Job,
    Outcome,
)
from app.weights.places import targets
from app.weights.sources import files_of, source_of
from app.weights.transfer import Patience, Progress, Transfer, room_for

log = logging.getLogger("airlab")

AT_ONCE = 3
"""Further jobs wait for one of these to end."""
RESERVE_BYTES = 256 * MIB
"""Kept free on the disk: for the database, and for whatever else lives there."""
_TICK_S = 1.0


class Downloads:
    """Every download of one AirLab."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        arrived: Callable[[], Awaitable[None]],
        *,
        patience: Patience | None = None,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        """Nothing is asked of anybody yet.

        Args:
            settings: Where models lie, and what the environment says of the hub.
            journal: Told what happens.
            arrived: Awaited when a model's files are in place, before the job counts as done.
            patience: How long a transfer tries.
            reserve_bytes: Kept free on the disk.
        """
        self._settings, self._journal, self._arrived = settings, journal, arrived
        self._patience, self._reserve_bytes = patience or Patience(), reserve_bytes
        self._models_dir = settings.home / "models"
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._taking = threading.Lock()

    def start(
        self,
        key: str,
        section: ModelSection,
        *,
        actor: str = "local",
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> Job:
        """The job that brings this model: the one that goes on already, or a new one.

        Args:
            key: The model.
            section: What the manifest says of it.
            actor: Who asks.
            first: Awaited before anything is downloaded; the job ends with what it raises. Not asked of one that goes
                on already: what has begun to come is no longer saved.

        Raises:
            BadRequestError: The manifest names no source.
        """
        source = source_of(section)
        if source is None:
            raise BadRequestError(
                f"{key} says nowhere where it can be downloaded; give it an hf_repo or a download_url"
            )
        # Names in the manifest are part of it: the same source under two names is two files.
        identity = " ".join((source, section.filename or "", *section.companion_names))
        before = self._jobs.get(identity)
        if before is not None and before.is_active:
            before.keys.add(key)
            return before
        job = self._jobs[identity] = Job(source, {key})
        self._journal.note(DownloadStarted(key, source, actor))
        after = before.task if before is not None else None
        job.task = asyncio.create_task(self._run(job, section, after=after, first=first))
        self._tasks.add(job.task)
        job.task.add_done_callback(self._tasks.discard)
        return job

    def of(self, key: str) -> Job | None:
        """The newest job of a model since the start."""
        jobs = [job for job in self._jobs.values() if key in job.keys]
        return max(jobs, key=lambda job: (job.is_active, job.begun_s), default=None)

    def cancel(self, key: str) -> Job:
        """End a model's job, for all who wait for it. What came stays; ``start`` goes on from there.

        Raises:
            DownloadNotFoundError: There is none that goes on.
        """
        job = self.of(key)
        if job is None or not job.is_active:
            raise DownloadNotFoundError(f"nothing of {key} is being downloaded")
        self._end(job, "cancelled", DownloadError(f"the download of {key} was cancelled; what came of it is kept"))
        self._journal.note(DownloadCancelled(key, job.done_bytes))
        if job.task is not None:
            job.task.cancel()
        return job

    async def finished(self, job: Job) -> None:
        """Wait for a job's end; whoever leaves meanwhile ends nothing. Raises what it failed with."""
        await job.ended.wait()
        if job.error is not None:
            raise job.error

    async def close(self) -> None:
        """End every job; what came stays on disk."""
        for job in self._jobs.values():
            if job.is_active:
                self._end(job, "cancelled", DownloadError("AirLab is shutting down; what came of the file is kept"))
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # One job.

    async def _run(
        self,
        job: Job,
        section: ModelSection,
        *,
        after: asyncio.Task[None] | None,
        first: Callable[[], Awaitable[None]] | None,
    ) -> None:
        ticker = asyncio.create_task(self._tick(job))
        try:
            if after is not None:  # a cancelled one lets go of its file in a moment
                await asyncio.wait({after})
            if first is not None:
                job.phase = "resolving"
                await first()
            await self._in_thread(partial(self._bring, job, section))
            await self._arrived()
            took_s = round(time.monotonic() - job.begun_s, 1)
            self._end(job, "done", None)
            self._journal.note(DownloadFinished(job.model, job.total_bytes, took_s))
        except AirLabError as exc:
            self._fail(job, exc)
        except Exception as exc:
            # Unforeseen, so logged whole; silent, whoever waits for it would wait for ever.
            log.exception("the download of %s failed", job.model)
            self._fail(job, DownloadError(f"AirLab failed at downloading {job.source}: {type(exc).__name__}"))
        finally:
            ticker.cancel()

    async def _bring(self, job: Job, section: ModelSection) -> None:
        """All files of a job, one after another. In a thread, in a loop of its own."""
        job.phase = "resolving"
        files = files_of(section, self._settings)
        own = targets(section, tuple(file.name for file in files if file.beside is None))
        beside = (PurePosixPath(file.beside) for file in files if file.beside is not None)
        places = [self._models_dir / place for place in (*own, *beside)]
        self._take(job, places, files)
        job.phase = "downloading"
        for number, (file, (place, progress)) in enumerate(zip(files, job.files, strict=True)):
            verify = partial(_verify, is_first=number == 0 or file.beside is not None)
            if _is_whole(place, verify):
                progress.done_bytes = progress.total_bytes = place.stat().st_size
                continue
            make_room = partial(self._make_room, job)
            await Transfer(file, place, verify, make_room, self._patience, progress).run()

    def _take(self, job: Job, places: Sequence[Path], files: Sequence[RemoteFile]) -> None:
        """The places are this job's from now on. Raises DownloadError where another one writes to one of them."""
        with self._taking:
            for other in tuple(self._jobs.values()):
                taken = {place for place, _ in other.files} if other is not job and other.is_active else set()
                if both := taken.intersection(places):
                    name = min(both).name
                    raise DownloadError(f"the download of {other.model} writes {name} already; wait for its end")
            progress = (Progress(total_bytes=file.size_bytes) for file in files)
            job.files = tuple(zip(places, progress, strict=True))

    def _make_room(self, job: Job, needed_bytes: int) -> None:
        if needed_bytes > MAX_FILE_BYTES:
            raise DownloadError(f"the server says that {needed_bytes} bytes are to come, which is no model")
        others = sum(other.missing_bytes for other in tuple(self._jobs.values()) if other is not job)
        # Files of this very job that come after this one count as well.
        later = max(0, job.missing_bytes - needed_bytes)
        room_for(
            self._models_dir,
            needed_bytes=needed_bytes + later,
            others_bytes=others,
            reserve_bytes=self._reserve_bytes,
            free_bytes=shutil.disk_usage(self._models_dir).free,
        )

    async def _tick(self, job: Job) -> None:
        while True:
            job.sample(time.monotonic())
            if job.state == "downloading" and job.files:
                self._journal.note(
                    DownloadProgressed(job.model, job.done_bytes, job.total_bytes, job.bytes_per_s, job.eta_s)
                )
            await asyncio.sleep(_TICK_S)

    def _fail(self, job: Job, exc: AirLabError) -> None:
        if job.is_active:  # else it was cancelled, and what came of that is told already
            self._end(job, "failed", exc)
            self._journal.note(DownloadFailed(job.model, exc.message))

    @staticmethod
    def _end(job: Job, outcome: Outcome, error: AirLabError | None) -> None:
        job.outcome, job.error = outcome, error
        job.ended.set()

    async def _in_thread(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it in a loop of its own in a thread; one who is cancelled cancels it, and waits for its end."""
        self._threads = self._threads or ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download")
        begun: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []
        called_off = asyncio.Event()

        async def guarded() -> None:
            task = asyncio.create_task(work())
            begun.append((asyncio.get_running_loop(), task))
            if called_off.is_set():
                task.cancel()
            await task

        running = self._threads.submit(lambda: asyncio.run(guarded()))
        done = asyncio.wrap_future(running)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            called_off.set()
            # Cancels nothing but what has not begun.
            running.cancel()
            for loop, task in begun:
                with suppress(RuntimeError):  # its loop was faster
                    loop.call_soon_threadsafe(task.cancel)
            await asyncio.wait({done})
            if not done.cancelled():
                done.exception()  # it is told already that this was cancelled
            raise


def _verify(file: Path, *, is_first: bool) -> None:
    """Raises WeightsBrokenError, or DownloadError, where it is no GGUF file."""
    if is_first:
        read_header(file)
        return
    # What a later part says of itself is not what a model says.
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise DownloadError(f"{file.name} is no GGUF file, and was thrown away")


def _is_whole(place: Path, verify: Callable[[Path], None]) -> bool:
    """Whether a file that could be used lies there: it may be somebody's own, and is never replaced."""
    if not place.is_file():
        return False
    try:
        verify(place)
    except AirLabError:
        return False
    return True
