"""One SQLite file and the one thread that touches it. Knows transactions and faults, not what the rows mean.

Work is a plain function of a connection. All work runs in that thread in the order in which it was asked for, so a
caller may rely on seeing what an earlier call wrote, even if the earlier caller has gone away.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from app.errors import StorageError, StorageFullError
from app.store.schema import migrate

T = TypeVar("T")

_BUSY_LIMIT_MS = 5000
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Database:
    """The open file. Made by ``open``, ended by ``close``."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet: use ``Database.open``, or ``connect``."""
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="airlab-store")
        self._connection: sqlite3.Connection | None = None
        self._closing: Future[None] | None = None

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open the file, check it and bring its tables up to date; a missing one is made, readable by its owner only.

        Raises:
            StorageFullError: There is no room to make it.
            StorageError: It cannot be opened, is damaged, or was written by a newer AirLab. It is left as it is.
        """
        database = cls(path)
        await database.connect()
        return database

    async def connect(self) -> None:
        """The second half of ``open``, for one who made the database before the loop ran. Raises as ``open`` does."""
        try:
            await self._run(self._connect)
        except BaseException:
            await self.close()
            raise

    async def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run the work as one transaction: what it returned is on the disk when this returns.

        Not ``durable``: it is in the hands of the system only, which spares the wait for the disk. A crash of AirLab
        takes nothing of it back, a power cut may.

        A caller that is cancelled while its work waits takes it back; once begun, the work is done wholly. An exception
        of the work undoes it.

        Raises:
            StorageFullError: The disk is full.
            StorageError: SQLite refused, or the database is closed.
        """
        return await self._run(lambda: self._transact("BEGIN IMMEDIATE", work, durable=durable))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run work that only reads; all it reads is of one moment.

        Raises:
            StorageError: SQLite refused, or the database is closed.
        """
        return await self._run(lambda: self._transact("BEGIN", work))

    async def close(self) -> None:
        """Finish what was asked for, fold the log into the file and end the thread. Doing it again does nothing.

        Raises:
            StorageError: The log could not be folded in, for want of room say. Nothing is lost: the next start does it.
        """
        if self._closing is None:
            self._closing = self._thread.submit(self._disconnect)
            # What was asked for is still done; then the thread ends.
            self._thread.shutdown(wait=False)
        # Shielded: whoever waits here may leave, the file is closed all the same.
        await asyncio.shield(asyncio.wrap_future(self._closing))

    async def _run(self, job: Callable[[], T]) -> T:
        if self._closing is not None:
            raise StorageError(f"{self.path} is closed; AirLab is stopping")
        # Cancelling this takes back a job that waits; one that runs is finished by the thread.
        return await asyncio.wrap_future(self._thread.submit(job))

    def _transact(self, begin: str, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        connection = self._connection
        if connection is None:
            raise StorageError(f"{self.path} was never opened")
        with translated(self.path):
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.execute(begin)
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    def _connect(self) -> None:
        with translated(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before SQLite would make it: its log and its index take over the file's mode.
            self.path.touch(mode=0o600)
            self.path.chmod(0o600)
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_LIMIT_MS / 1000)
            try:
                _prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        try:
            with translated(self.path):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._connection.close()


def now_ms() -> int:
    """The time in UTC milliseconds since 1970, as every table keeps it."""
    return time.time_ns() // 1_000_000


def inserted(connection: sqlite3.Connection, statement: str, values: Sequence[object]) -> int:
    """Run an INSERT of one row: the new row's id."""
    row_id = connection.execute(statement, tuple(values)).lastrowid
    if row_id is None:
        raise sqlite3.InternalError("an INSERT gave no row id")
    return row_id


def storable(text: str) -> str:
    """The text as SQLite can hold it: halves of surrogate pairs, which JSON can carry, become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say into our words, naming the file."""
    try:
        yield
    except sqlite3.Error as exc:
        # The module's own complaints carry no code.
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code in _FULL or code & 0xFF in _FULL:
            raise StorageFullError(_full(path)) from exc
        if code & 0xFF in _DAMAGED:
            raise StorageError(_damaged(path, str(exc))) from exc
        raise StorageError(f"{path}: SQLite says: {exc}{_hint(code & 0xFF)}") from exc
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise StorageFullError(_full(path)) from exc
        raise StorageError(f"{path}: {exc.strerror}; AirLab must be able to read and write it") from exc


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(f"PRAGMA busy_timeout={_BUSY_LIMIT_MS}")
    found = [line for (line,) in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise StorageError(_damaged(path, "; ".join(found)))
    connection.execute("PRAGMA journal_mode=WAL")
    # NORMAL may lose the last answers at a power cut.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    try:
        migrate(connection)
    except StorageError as exc:
        raise StorageError(f"{path}: {exc.message}") from exc


def _full(path: Path) -> str:
    return f"{path}: the disk is full; nothing was stored. Free some space there; conversations can still be read"


def _damaged(path: Path, found: str) -> str:
    return (
        f"{path} is damaged: {found}\n"
        f"  to fix:  stop AirLab, then put an older copy in its place, or move {path.name}* away to start empty;\n"
        f"           `sqlite3 {path.name} .recover` saves what can be read. AirLab leaves the file as it is"
    )


def _hint(code: int) -> str:
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "; another program holds it: end that one, or give each AirLab a state folder of its own"
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return "; AirLab must be able to write the file and its folder"
    return ""
