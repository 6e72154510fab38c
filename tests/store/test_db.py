"""The file, its thread, and what can go wrong with them."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import StorageError, StorageFullError
from app.store import schema
from app.store.audit import Audit
from app.store.db import Database
from tests.store.talk import Talk, answer, count_messages, user
from tests.store.test_audit import INTENT

LIMIT_S = 20


def _store_threads() -> list[threading.Thread]:
    """Those that do not end by themselves."""
    found = [thread for thread in threading.enumerate() if thread.name.startswith("airlab-store")]
    for thread in found:
        thread.join(LIMIT_S)
    return [thread for thread in found if thread.is_alive()]


async def test_open_file_is_durable_checked_and_private(database: Database) -> None:
    """FULL, because NORMAL may lose answers at a power cut; private, because it holds all that was ever said."""
    await Talk(database).say("one", "first")
    names = ["journal_mode", "synchronous", "foreign_keys", "busy_timeout", "user_version"]
    found = await database.read(lambda c: [c.execute(f"PRAGMA {name}").fetchone()[0] for name in names])

    assert found == ["wal", 2, 1, 5000, len(schema.MIGRATIONS)]
    files = sorted(database.path.parent.iterdir())
    assert [file.name for file in files] == ["airlab.db", "airlab.db-shm", "airlab.db-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_what_was_said_survives_a_restart(database: Database) -> None:
    await Talk(database).say("one", "first")
    await database.close()
    reopened = await Database.open(database.path)
    try:
        assert await Talk(reopened).branch() == ["one", "first"]
    finally:
        await reopened.close()


async def test_close_leaves_one_file_and_no_thread_and_may_be_repeated(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "state" / "airlab.db")
    await Talk(database).say("one", "first")
    await asyncio.gather(database.close(), database.close())
    await database.close()

    assert [file.name for file in (tmp_path / "state").iterdir()] == ["airlab.db"]
    assert not _store_threads()
    with pytest.raises(StorageError, match="closed"):
        await database.read(count_messages)


async def test_close_finishes_what_was_asked_for(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "airlab.db")
    asked = [asyncio.create_task(database.write(_store_session(str(number)))) for number in range(5)]
    await asyncio.sleep(0)
    await database.close()

    await asyncio.gather(*asked)
    reopened = await Database.open(tmp_path / "airlab.db")
    assert await reopened.read(_session_names) == ["0", "1", "2", "3", "4"]
    await reopened.close()


@pytest.mark.parametrize("damage", ["not a database at all" * 100, "torn"])
async def test_damaged_file_is_named_with_what_to_do_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "airlab.db"
    if damage == "torn":
        database = await Database.open(path)
        await Talk(database).say("one" * 5000, "first")
        await database.close()
        content = bytearray(path.read_bytes())
        content[4096 : len(content) - 4096] = b"\x55" * (len(content) - 8192)
        path.write_bytes(content)
    else:
        path.write_text(damage)
    before = path.read_bytes()

    with pytest.raises(StorageError, match="damaged") as caught:
        await Database.open(path)

    assert str(path) in caught.value.message
    assert "to fix:" in caught.value.message
    assert path.read_bytes() == before
    assert not _store_threads()


async def test_file_of_a_newer_airlab_is_refused(database: Database) -> None:
    """Writing into tables one does not know loses data slowly."""
    await database.write(lambda c: c.execute("PRAGMA user_version = 99"))
    await database.close()

    with pytest.raises(StorageError, match=r"version 99[^$]*newer AirLab") as caught:
        await Database.open(database.path)
    assert str(database.path) in caught.value.message


async def test_failed_migration_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "airlab.db"
    good = schema.MIGRATIONS
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*good, "CREATE TABLE later (id INTEGER); CREATE TABLE turns (id);"))
        with pytest.raises(StorageError, match="turns already exists"):
            await Database.open(path)

    database = await Database.open(path)
    tables = await database.read(lambda c: c.execute("SELECT name FROM sqlite_master WHERE name = 'later'").fetchall())
    await database.close()
    assert tables == []


async def test_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        await Database.open(tmp_path / "file" / "airlab.db")


async def test_file_held_by_another_program_says_so(database: Database) -> None:
    await database.read(lambda c: c.execute("PRAGMA busy_timeout = 1"))
    with sqlite3.connect(database.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another program"):
            await Talk(database).open(user("one"))
    other.close()

    await Talk(database).open(user("one"))


async def test_only_what_need_not_outlive_a_power_cut_does_not_wait_for_the_disk(database: Database) -> None:
    def waits(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    full, normal = 2, 1
    assert await database.write(waits) == full
    assert await database.write(waits, durable=False) == normal
    assert await database.write(waits) == full


async def test_exception_in_the_work_undoes_it(database: Database) -> None:
    def work(connection: sqlite3.Connection) -> None:
        _store_session("half")(connection)
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(work)
    assert await database.read(_session_names) == []


async def test_refusal_by_sqlite_is_a_storage_error_with_its_cause(database: Database) -> None:
    with pytest.raises(StorageError) as caught:
        await database.write(lambda c: c.execute("INSERT INTO turns (session, status) VALUES (1, 'odd')"))
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)


async def test_cancelled_writer_that_waits_takes_its_work_back(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        go_on.wait(LIMIT_S)

    holding = asyncio.create_task(database.write(hold))
    await asyncio.to_thread(begun.wait, LIMIT_S)
    waiting = asyncio.create_task(database.write(_store_session("taken back")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await holding

    assert await database.read(_session_names) == []


async def test_cancelled_writer_that_has_begun_is_done_wholly(database: Database) -> None:
    """Half of it would be worse than either."""
    begun, go_on = threading.Event(), threading.Event()

    def work(connection: sqlite3.Connection) -> None:
        _store_session("first half")(connection)
        begun.set()
        go_on.wait(LIMIT_S)
        _store_session("second half")(connection)

    writing = asyncio.create_task(database.write(work))
    await asyncio.to_thread(begun.wait, LIMIT_S)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    go_on.set()

    assert await database.read(_session_names) == ["first half", "second half"]


async def test_cancelled_open_leaves_no_thread(tmp_path: Path) -> None:
    opening = asyncio.create_task(Database.open(tmp_path / "airlab.db"))
    await asyncio.sleep(0)
    opening.cancel()

    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not _store_threads()


async def test_fault_116_full_disk_refuses_writes_and_goes_on_reading(database: Database) -> None:
    """A conversation can still be read and exported, and no call runs whose intent could not be written."""
    talk = Talk(database)
    await talk.say("one", "first")
    turn = await talk.open(user("two"))
    pages = await database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await database.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}"))

    with pytest.raises(StorageFullError, match="disk is full"):
        await talk.sessions.close_turn(turn.id, answer("second" * 10_000))
    with pytest.raises(StorageFullError):
        await Audit(database).intend(dataclasses.replace(INTENT, arguments="x" * 60_000))

    assert await talk.branch() == ["one", "first"]
    view = await talk.sessions.view(talk.key)
    assert view is not None
    assert [turn.status for turn in view.turns] == ["done", "open"]

    await database.read(lambda c: c.execute("PRAGMA max_page_count = 1000000"))
    await talk.sessions.close_turn(turn.id, answer("second"))
    assert await talk.branch() == ["one", "first", "two", "second"]


async def test_session_and_all_it_holds_can_be_deleted(talk: Talk) -> None:
    """The tables leave no way to delete half of a conversation."""
    await talk.say("one", "first")
    await talk.say("two", "second")
    await talk.database.write(lambda c: c.execute("DELETE FROM sessions"))

    assert await talk.stored() == 0
    assert await talk.database.read(lambda c: c.execute("PRAGMA foreign_key_check").fetchall()) == []


def _store_session(name: str) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO sessions (owner, name, created_ms, updated_ms) VALUES ('use', ?, 0, 0)", (name,)
        )

    return work


def _session_names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM sessions ORDER BY id")]
