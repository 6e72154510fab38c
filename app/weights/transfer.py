"""Brings one file over HTTP to disk: resumed, bounded, verified, and only then given its name.

What has come lies beside the target in ``.NAME.IDENTITY.part``, and that is all the memory there is: IDENTITY stands
for the checksum, or for the ETag, so that what changed on the server meanwhile is not glued to the wrong half.
Knows nothing of models and jobs. Runs in a loop of its own: hashing gigabytes must hold nobody else up.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from app.errors import AirLabError, DownloadError, StorageError, StorageFullError
from app.units import MIB, format_bytes
from app.weights.follow import AgainError, followed, span
from app.weights.hub import RemoteFile

if TYPE_CHECKING:
    import httpx2

_CHUNK_BYTES = MIB
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a transfer tries; tests shorten it."""

    pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Before each further try; whenever something came, they begin anew."""
    connect_s: float = 15.0
    silence_s: float = 60.0
    """A connection on which nothing comes for this long is given up."""


@dataclass(slots=True)
class Progress:
    """What a transfer has reached; it writes, others may read at any time."""

    done_bytes: int = 0
    total_bytes: int | None = None
    message: str = ""
    """What it waits for, where it does."""
    verifying: bool = False


@dataclass(slots=True)
class Transfer:
    """One file on its way."""

    file: RemoteFile
    target: Path
    verify: Callable[[Path], None]
    """Looks into the whole file before it gets its name; raises AirLabError."""
    make_room: Callable[[int], None]
    """Told how many bytes are to come; raises StorageFullError where there is no room."""
    patience: Patience = Patience()
    progress: Progress = field(default_factory=Progress)
    _sha256: str | None = None
    _client: httpx2.AsyncClient = field(init=False)

    async def run(self) -> None:
        """Have the file at its target.

        Raises:
            DownloadError: It cannot be had, or is not what it should be.
            StorageFullError: There is no room; what came stays.
            StorageError: The disk refuses.
        """
        import httpx2  # noqa: PLC0415 # at first need

        timeout = httpx2.Timeout(self.patience.connect_s, read=self.patience.silence_s)
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            async with httpx2.AsyncClient(timeout=timeout, follow_redirects=False) as self._client:
                self._sha256 = self.file.sha256 or await self._sha256_beside()
                await self._until_whole(httpx2.TransportError)
        except OSError as exc:
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFullError(
                    f"the disk of {self.target.parent} is full; make room and pull again, what came is kept"
                ) from exc
            raise StorageError(f"{self.target} cannot be written: {exc.strerror or exc}") from exc

    async def _until_whole(self, lost: type[Exception]) -> None:
        """Try, and try again after a pause as long as something comes."""
        failures = 0
        while True:
            before = self.progress.done_bytes
            try:
                await self._attempt()
            except (lost, AgainError) as exc:
                failures = 1 if self.progress.done_bytes > before else failures + 1
                if failures > len(self.patience.pauses_s):
                    raise DownloadError(
                        f"{self.file.name}: {exc or type(exc).__name__}, {failures} times in a row; what came is kept, "
                        "pull again to go on"
                    ) from exc
                pause_s = max(self.patience.pauses_s[failures - 1], getattr(exc, "pause_s", 0.0))
                self.progress.message = f"trying again in {pause_s:.0f} s: {exc or type(exc).__name__}"
                await asyncio.sleep(pause_s)
            else:
                return

    async def _attempt(self) -> None:
        """Ask for what is missing, and take it; returns with the file whole, verified and in its place."""
        part = self._found_part()
        have = part.stat().st_size if part else 0
        headers = {"range": f"bytes={have}-"} if have else {}
        async with followed(self._client, self.file, headers, redirected=self._note_sha256) as answer:
            if answer.status_code == 416 and answer.headers.get("content-range") != f"bytes */{have}":
                self._forget()
                raise AgainError("the server has less of the file than came before")
            begins, total = span(answer, have)
            if self.file.size_bytes not in {None, total}:
                raise DownloadError(
                    f"{self.file.name} has {total} bytes at {self.file.url}, where the hub says {self.file.size_bytes}"
                )
            # 416 says that all of it came before, and need not name what it speaks of.
            named = part if part is not None and answer.status_code == 416 else self._part(answer)
            if have and begins and part != named:
                self._forget()  # it is another file by now
                raise AgainError("the file on the server changed")
            with _locked(named) as out:
                digest = await self._kept(out, begins)
                self.progress.done_bytes, self.progress.total_bytes, self.progress.message = begins, total, ""
                self.make_room(total - begins)
                async for piece in answer.aiter_raw():  # as it comes: what a chunk waited for would be lost
                    if self.progress.done_bytes + len(piece) > total:
                        raise DownloadError(f"{self.file.name}: the server sends more than the {total} bytes it said")
                    out.write(piece)
                    digest.update(piece)
                    self.progress.done_bytes += len(piece)
                out.flush()
                if self.progress.done_bytes < total:
                    raise AgainError(f"the server sent {self.progress.done_bytes} of {total} bytes")
                self._accept(named, out, digest.hexdigest())

    def _accept(self, part: Path, out: BinaryIO, digest: str) -> None:
        self.progress.verifying = True
        try:
            if self._sha256 is not None and digest != self._sha256.lower():
                raise DownloadError(
                    f"{self.file.name} is not what it should be: its SHA-256 is {digest}, and {self._sha256} was "
                    "expected; it was thrown away, pull again"
                )
            self.verify(part)
        except AirLabError:
            part.unlink(missing_ok=True)
            raise
        finally:
            self.progress.verifying = False
        os.fsync(out.fileno())
        part.replace(self.target)
        with suppress(OSError):  # some file systems of networks cannot flush a folder
            folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._forget()

    # The partial file.

    async def _kept(self, out: BinaryIO, begins: int) -> Any:
        """The checksum of what is there already; the file, cut to it."""
        digest = hashlib.sha256()
        out.truncate(begins)
        out.seek(0)
        while piece := out.read(_CHUNK_BYTES):
            digest.update(piece)
            await asyncio.sleep(0)  # a cancelled download must not hash on
        return digest

    def _part(self, answer: httpx2.Response) -> Path:
        etag = answer.headers.get("etag", "")
        # A weak one promises no equal bytes: then nothing of it is taken up again.
        identity = self._sha256 or (
            f"{self.file.url} {etag}" if etag and not etag.startswith("W/") else os.urandom(8).hex()
        )
        short = hashlib.sha256(identity.lower().encode()).hexdigest()[:16]
        return self.target.with_name(f".{self.target.name}.{short}.part")

    def _found_part(self) -> Path | None:
        """What came before; with a checksum in hand only the part of that very file."""
        parts = list(self.target.parent.glob(f".{_literal(self.target.name)}.*.part"))
        if self._sha256 is not None:
            short = hashlib.sha256(self._sha256.lower().encode()).hexdigest()[:16]
            parts = [part for part in parts if part.name.endswith(f".{short}.part")]
        return max(parts, key=lambda part: part.stat().st_size, default=None)

    def _forget(self) -> None:
        """Remove what is left of other tries."""
        for part in self.target.parent.glob(f".{_literal(self.target.name)}.*.part"):
            part.unlink(missing_ok=True)

    async def _sha256_beside(self) -> str | None:
        """The checksum that lies beside a plain URL as URL.sha256, where it does."""
        if urlsplit(self.file.url).query or self.file.size_bytes is not None:
            return None
        try:
            beside = replace(self.file, url=f"{self.file.url}.sha256")
            async with followed(self._client, beside, {}, redirected=self._note_sha256) as answer:
                async for piece in answer.aiter_raw(1024):
                    match = _SHA256.match(piece.decode("ascii", errors="replace").strip())
                    return match[0].lower() if match else None
        except (DownloadError, AgainError, self._lost()):
            return None
        return None

    def _note_sha256(self, answer: httpx2.Response) -> None:
        """A hub names the checksum in the redirect to where it keeps large files."""
        self._sha256 = self._sha256 or _sha256_in(answer)

    @staticmethod
    def _lost() -> type[Exception]:
        import httpx2  # noqa: PLC0415

        return httpx2.TransportError


def _sha256_in(answer: httpx2.Response) -> str | None:
    """The checksum that a hub names in the redirect to where it keeps large files."""
    match = _SHA256.fullmatch(answer.headers.get("x-linked-etag", "").strip('"'))
    return match[0].lower() if match else None


class _locked:  # noqa: N801 # reads as what it does
    """A partial file, open for us alone, at ``with``. Raises DownloadError where somebody else writes it."""

    def __init__(self, part: Path) -> None:
        self._part = part

    def __enter__(self) -> BinaryIO:
        descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self._file = os.fdopen(descriptor, "r+b", buffering=_CHUNK_BYTES)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            self._file.close()
            raise DownloadError(f"another AirLab is downloading {self._part}; wait for it") from exc
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _literal(name: str) -> str:
    """A name in a glob pattern, standing for itself."""
    return re.sub(r"([*?[])", r"[\1]", name)


def room_for(folder: Path, *, needed_bytes: int, others_bytes: int, reserve_bytes: int, free_bytes: int) -> None:
    """Raises StorageFullError, with the arithmetic, where so many bytes do not fit beside what others still need."""
    if needed_bytes + others_bytes + reserve_bytes <= free_bytes:
        return
    others = f", other downloads {format_bytes(others_bytes)}" if others_bytes else ""
    raise StorageFullError(
        f"the disk of {folder} has {format_bytes(free_bytes)} free; this download needs {format_bytes(needed_bytes)}"
        f"{others}, and {format_bytes(reserve_bytes)} are kept free. Make room, then pull again"
    )
