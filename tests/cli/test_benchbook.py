"""Figures of bench runs are kept whole and found again, newest runs last."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli.benchbook import Benchbook
from app.cli.measuring import Measured
from app.errors import StorageError

FIGURE = Measured("a", "Q4_K_M", 128, 1, 3, 0.1, 1280.0, 40.0, 39.5, 2.5, 500_000_000, 8192, 2)


def test_figures_come_back_as_they_were_kept(tmp_path: Path) -> None:
    book = Benchbook(tmp_path / "state" / "bench.db")
    elsewhere = replace(FIGURE, model="b", quantisation=None, load_s=None, memory_bytes=None)
    first = book.keep([FIGURE, elsewhere], at_s=1.0, host="h", note="before")
    second = book.keep([FIGURE], at_s=2.0, host="h")

    kept = book.last(runs=5)
    assert [(one.run, one.measured) for one in kept] == [(first, FIGURE), (first, elsewhere), (second, FIGURE)]
    assert (kept[0].at_s, kept[0].host, kept[0].note) == (1.0, "h", "before")
    assert [one.run for one in book.last(runs=1)] == [second]
    assert [one.measured for one in book.last(runs=5, models=["b"])] == [elsewhere]


def test_figures_are_for_the_eyes_of_their_owner_alone(tmp_path: Path) -> None:
    """As all that AirLab keeps; a file of an earlier version was readable by everybody."""
    file = tmp_path / "bench.db"
    for _ in range(2):
        Benchbook(file).keep([FIGURE], at_s=1.0, host="h")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o644)


def test_file_of_an_earlier_version_keeps_its_rows_and_takes_new_ones(tmp_path: Path) -> None:
    """The runs before an update are what one compares with."""
    file = tmp_path / "bench.db"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, at_s REAL, host TEXT, note TEXT)")
        db.execute(
            "CREATE TABLE figures (run INTEGER, model TEXT, quantisation TEXT, prompt_tokens INTEGER, at_once INTEGER, "
            "requests INTEGER, ttft_s REAL, prompt_per_s REAL, generate_per_s REAL, total_per_s REAL, load_s REAL, "
            "memory_bytes INTEGER)"
        )
        db.execute("INSERT INTO runs VALUES (1, 1.0, 'h', '')")
        db.execute("INSERT INTO figures VALUES (1, 'a', 'Q4_K_M', 128, 1, 3, 0.1, 1280.0, 40.0, 39.5, 2.5, 500000000)")
    book = Benchbook(file)
    before = replace(FIGURE, context_length=None, slots=None)

    assert [one.measured for one in book.last(runs=5)] == [before]
    book.keep([FIGURE], at_s=2.0, host="h")
    assert [one.measured for one in book.last(runs=5)] == [before, FIGURE]


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "bench.db").write_text("not SQLite, " * 100)
    with pytest.raises(StorageError, match=r"bench\.db cannot be used"):
        Benchbook(tmp_path / "bench.db").last(runs=1)
