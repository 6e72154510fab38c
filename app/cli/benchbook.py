"""The figures of earlier bench runs: one SQLite file of their own, beside AirLab's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from app.cli.measuring import Measured
from app.errors import StorageError

_FIGURES = tuple(field.name for field in fields(Measured))
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, at_s REAL NOT NULL, host TEXT NOT NULL, note TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS figures (
    run INTEGER NOT NULL REFERENCES runs (id), model TEXT NOT NULL, quantisation TEXT, prompt_tokens INTEGER NOT NULL,
    at_once INTEGER NOT NULL, requests INTEGER NOT NULL, ttft_s REAL NOT NULL, prompt_per_s REAL NOT NULL,
    generate_per_s REAL NOT NULL, total_per_s REAL NOT NULL, load_s REAL, memory_bytes INTEGER, context_length INTEGER,
    slots INTEGER
);
"""
_ADDED = ("context_length", "slots")
"""Columns that the first files had not."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One figure with the run that it comes from."""

    run: int
    at_s: float
    """Unix time of the run."""
    host: str
    note: str
    measured: Measured


class Benchbook:
    """Reads and writes it; every call opens the file anew. All methods raise StorageError."""

    def __init__(self, file: Path) -> None:
        """Nothing is opened yet."""
        self._file = file

    def keep(self, measured: Iterable[Measured], *, at_s: float, host: str, note: str = "") -> int:
        """Write one run down, whole or not at all; its number."""
        with self._open() as db, db:
            run = db.execute("INSERT INTO runs (at_s, host, note) VALUES (?, ?, ?)", (at_s, host, note)).lastrowid
            marks = ", ".join("?" for _ in _FIGURES)
            db.executemany(
                f"INSERT INTO figures (run, {', '.join(_FIGURES)}) VALUES (?, {marks})",  # noqa: S608 # our own names
                [(run, *asdict(one).values()) for one in measured],
            )
        return int(run or 0)

    def last(self, *, runs: int, models: Iterable[str] = ()) -> list[Kept]:
        """The figures of so many last runs, oldest first; of these models, or of all."""
        wanted = set(models)
        with self._open() as db:
            rows = db.execute(
                f"SELECT runs.id, at_s, host, note, {', '.join(_FIGURES)} FROM figures "  # noqa: S608 # our own names
                "JOIN runs ON runs.id = run WHERE run IN (SELECT id FROM runs ORDER BY id DESC LIMIT ?) "
                "ORDER BY run, figures.rowid",
                (runs,),
            ).fetchall()
        kept = [Kept(run, at_s, host, note, Measured(*figures)) for run, at_s, host, note, *figures in rows]
        return [one for one in kept if not wanted or one.measured.model in wanted]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before SQLite would make it: its journal takes over the file's mode.
            self._file.touch(mode=0o600)
            self._file.chmod(0o600)
            with closing(sqlite3.connect(self._file, timeout=5)) as db:
                db.executescript(_SCHEMA)
                _bring_up_to_date(db)
                yield db
        except (sqlite3.Error, OSError) as exc:
            raise StorageError(f"{self._file} cannot be used: {exc}") from exc


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Give a file of an earlier version the columns that it lacks; its rows stay, and hold nothing there."""
    if not _lacking(db):
        return
    with db:
        db.execute("BEGIN IMMEDIATE")  # another bench may have done it meanwhile
        for column in _lacking(db):
            db.execute(f"ALTER TABLE figures ADD COLUMN {column} INTEGER")


def _lacking(db: sqlite3.Connection) -> list[str]:
    known = {name for _, name, *_ in db.execute("PRAGMA table_info(figures)")}
    return [column for column in _ADDED if column not in known]
