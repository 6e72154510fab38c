"""What a model would be before it is downloaded: the sizes that a hub names, and the header in its file's first bytes.

Nothing is written to disk, and nothing that a server sends is believed: at most 32 MiB of it are read, within seconds,
by the reader that looks into files of unknown origin on disk as well. Knows nothing of memory.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import AirLabError, DownloadError, WeightsBrokenError
from app.manifest.schema import ModelSection
from app.settings import Settings
from app.units import KIB, MIB, format_bytes
from app.weights.follow import AgainError, followed, span
from app.weights.gguf import GgufFacts, facts_in
from app.weights.hub import MAX_FILE_BYTES, RemoteFile
from app.weights.sources import files_of, source_of

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("airlab")

MOST_READ_BYTES = 32 * MIB
"""Of a file's beginning; the largest header seen takes less than 16 MiB."""
_FIRST_LOOK_BYTES = 256 * KIB
LOOK_S = 10.0
"""For the list of files and the header together."""
_KEPT_S, _ERROR_KEPT_S, _MOST_KEPT = 600.0, 30.0, 256
"""How long an answer, or the lack of one, is given again without asking anybody, and of how many sources."""
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Preview:
    """What is known of a model that is not here."""

    size_bytes: int
    """All its own files."""
    facts: GgufFacts | None
    """What its header says; None where that could not be read."""
    note: str = ""
    """Why not; empty where it could, or where there is a ``problem``."""
    problem: str | None = None
    """Why no download of it can be used, if so."""
    beside_bytes: int = 0
    """Files that go with it and come along with a download; nobody looked into them."""

    @property
    def download_bytes(self) -> int:
        """What there is to download."""
        return self.size_bytes + self.beside_bytes

    @property
    def caveat(self) -> str:
        """What a sum made with it leaves out, in words to be put behind it; empty where nothing."""
        said = f" (by its size alone, since its header could not be read: {self.note})" if self.note else ""
        beside = f" (without {format_bytes(self.beside_bytes)} of files that go with it)" if self.beside_bytes else ""
        return f"{said}{beside}"


class Previews:
    """The previews of one AirLab, or of one command. Each source is asked once for all who want to know, and not often.

    That bound is what lets anybody ask who may use a model: whom the server asks, the manifest alone says.
    """

    def __init__(self, settings: Settings) -> None:
        """Nobody is asked yet."""
        self._settings = settings
        self._known: dict[str, _Look] = {}
        self._turns = threading.BoundedSemaphore(_AT_ONCE)

    async def of(self, section: ModelSection, *, within_s: float = LOOK_S) -> Preview:
        """What a model with a source would be.

        Args:
            section: What the manifest says of it.
            within_s: How long to wait for that, in seconds.

        Raises:
            DownloadError: That is not known: nobody may or can be asked, or there is no such model.
        """
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._look(section).found), within_s)
        except TimeoutError as exc:
            raise DownloadError(
                f"{source_of(section)} did not answer within {within_s:.0f} s; ask again later"
            ) from exc

    def _look(self, section: ModelSection) -> _Look:
        # The name and the checksum that the manifest gives a plain URL say nothing of what lies there.
        source = " ".join((source_of(section) or "", *section.companion_names))
        look = self._known.get(source)
        if look is None or look.is_old(now_s=time.monotonic()):
            self._known.pop(source, None)
            while len(self._known) >= _MOST_KEPT:
                del self._known[next(iter(self._known))]
            look = self._known[source] = _Look(section, self._settings, self._turns)
        return look


class _Look:
    """One look at one source, in a thread of its own.

    A daemon, since the name of a server may take minutes to be not found: nobody's end waits for that.
    """

    def __init__(self, section: ModelSection, settings: Settings, turns: threading.BoundedSemaphore) -> None:
        self.found: Future[Preview] = Future()
        self.found.set_running_or_notify_cancel()
        self._section, self._settings, self._turns = section, settings, turns
        self._ended_s: float | None = None
        threading.Thread(target=self._run, name="preview", daemon=True).start()

    def is_old(self, *, now_s: float) -> bool:
        """Whether another look is due; never while this one goes on."""
        if self._ended_s is None or not self.found.done():
            return False
        kept_s = _KEPT_S if self.found.exception() is None else _ERROR_KEPT_S
        return now_s >= self._ended_s + kept_s

    def _run(self) -> None:
        with self._turns:
            try:
                found = asyncio.run(look_ahead(self._section, self._settings))
            except AirLabError as exc:
                self._end(exc)
            except Exception as exc:
                # Unforeseen, so logged whole; silent, whoever waits for it would learn nothing.
                source = source_of(self._section)
                log.exception("the look at %s failed", source)
                self._end(DownloadError(f"AirLab failed at looking at {source}: {type(exc).__name__}"))
            else:
                self._end(found)

    def _end(self, found: Preview | AirLabError) -> None:
        self._ended_s = time.monotonic()
        if isinstance(found, Preview):
            self.found.set_result(found)
        else:
            self.found.set_exception(found)


async def look_ahead(section: ModelSection, settings: Settings) -> Preview:
    """Ask for the files, and read the first one's header; in a loop of its own, which it blocks.

    Raises:
        DownloadError: The files cannot be asked for, or nobody says how large they are.
    """
    listed = files_of(section, settings)
    files = [file for file in listed if file.beside is None]
    seen = _Seen()
    try:
        async with asyncio.timeout(LOOK_S):
            await _read_header(files[0], seen)
        note = "" if seen.facts else f"it is longer than {MOST_READ_BYTES // MIB} MiB"
    except TimeoutError:
        note = f"it did not come within {LOOK_S:.0f} s"
    except WeightsBrokenError as exc:
        note, seen.problem = exc.message, exc.message
    except (DownloadError, AgainError) as exc:
        note = str(exc)
    sizes = [file.size_bytes for file in files] if len(files) > 1 else [seen.size_bytes or files[0].size_bytes]
    known = [size for size in sizes if size]
    if len(known) < len(sizes):
        raise DownloadError(f"nobody says how large {files[0].name} is{f': {note}' if note else ''}")
    beside_bytes = sum(file.size_bytes or 0 for file in listed if file.beside is not None)
    return Preview(sum(known), seen.facts, "" if seen.problem else note, seen.problem, beside_bytes)


@dataclass(slots=True)
class _Seen:
    """What came of a file before it, or the time, ended."""

    size_bytes: int | None = None
    facts: GgufFacts | None = None
    problem: str | None = None


async def _read_header(file: RemoteFile, seen: _Seen) -> None:
    """Learn how large a file is, and what its header says, where that ends within the bound.

    Raises:
        DownloadError: It is not given to us, or is another one than the hub lists.
        AgainError: The server is busy, or the connection broke.
        WeightsBrokenError: It is no model that llama.cpp could load.
    """
    import httpx2  # noqa: PLC0415 # at first need

    headers = {"range": f"bytes=0-{MOST_READ_BYTES - 1}"}
    try:
        async with (
            httpx2.AsyncClient(timeout=LOOK_S, follow_redirects=False) as client,
            followed(client, file, headers) as answer,
        ):
            size_bytes = span(answer, 0)[1]
            if size_bytes > MAX_FILE_BYTES or file.size_bytes not in {None, size_bytes}:
                raise DownloadError(f"the server says that it has {size_bytes} bytes, which is not so")
            seen.size_bytes = size_bytes
            seen.facts = await _facts_of(file.name, answer, size_bytes)
    except httpx2.TransportError as exc:
        raise AgainError(str(exc) or type(exc).__name__) from exc


async def _facts_of(name: str, answer: httpx2.Response, size_bytes: int) -> GgufFacts | None:
    """Read on until the header is whole. A server that sends all of the file, range or not, is left at the bound."""
    most = min(size_bytes, MOST_READ_BYTES)
    came, next_look = bytearray(), min(_FIRST_LOOK_BYTES, most)
    async for piece in answer.aiter_raw():
        came += piece[: most - len(came)]
        if len(came) < next_look:
            continue
        facts = facts_in(name, came, size_bytes)
        if facts is not None and facts.kind not in {None, "model"}:
            raise WeightsBrokenError(f"{name} holds no model: it says that it is of the type {facts.kind!r}")
        if facts is not None or len(came) >= most:
            return facts
        next_look = min(2 * len(came), most)
    raise AgainError(f"the server sent {len(came)} of {most} bytes")
