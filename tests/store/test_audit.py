"""The account of tool calls."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import StorageError
from app.store.audit import ARGUMENTS_LIMIT_BYTES, Audit, Intent
from app.store.db import Database
from app.store.schema import MIGRATIONS

INTENT = Intent(
    actor="use",
    session="default",
    turn=3,
    tool="write_file",
    arguments='{"path": "/workspace/a"}',
    verdict="allow",
    reason="inside workspace/",
)


@pytest.fixture
def audit(database: Database) -> Audit:
    return Audit(database)


async def test_call_is_told_before_and_after(audit: Audit) -> None:
    audit_id = await audit.intend(INTENT)
    (before,) = await audit.recent(10)
    await audit.record(audit_id, status="ok", duration_s=0.25, result_bytes=17)
    (after,) = await audit.recent(10)

    assert (before.intent, before.status, before.duration_s) == (INTENT, "unfinished", None)
    assert (after.intent, after.status, after.duration_s, after.result_bytes) == (INTENT, "ok", 0.25, 17)


async def test_call_without_a_result_shows_as_unfinished_after_a_restart(database: Database) -> None:
    """Whether it had an effect is not known, and that is what the account says."""
    await Audit(database).intend(INTENT)
    await database.close()
    reopened = await Database.open(database.path)
    try:
        (entry,) = await Audit(reopened).recent(1)
    finally:
        await reopened.close()

    assert entry.status == "unfinished"


async def test_what_is_recorded_is_never_changed(audit: Audit) -> None:
    audit_id = await audit.intend(INTENT)
    await audit.record(audit_id, status="error", duration_s=1, result_bytes=0)

    with pytest.raises(StorageError, match="recorded already"):
        await audit.record(audit_id, status="ok", duration_s=1, result_bytes=0)
    assert (await audit.recent(1))[0].status == "error"


async def test_long_arguments_are_cut_with_a_mark(audit: Audit) -> None:
    await audit.intend(dataclasses.replace(INTENT, arguments="ä" * ARGUMENTS_LIMIT_BYTES))

    kept = (await audit.recent(1))[0].intent.arguments
    assert kept.startswith("ä" * (ARGUMENTS_LIMIT_BYTES // 2))
    assert kept.endswith(f" [cut here: {2 * ARGUMENTS_LIMIT_BYTES} bytes in all]")


async def test_arguments_that_are_no_text_are_written_down_all_the_same(audit: Audit) -> None:
    """Arguments are whatever a model wrote, and an account that refuses them would tell nothing."""
    await audit.intend(dataclasses.replace(INTENT, arguments='{"path": "\ud800"}'))

    assert (await audit.recent(1))[0].intent.arguments == '{"path": "\ufffd"}'


async def test_recent_tells_the_last_calls_newest_first(audit: Audit) -> None:
    ids = [await audit.intend(INTENT) for _ in range(5)]

    assert [entry.id for entry in await audit.recent(3)] == ids[:1:-1]


async def test_who_allowed_a_call_is_kept_with_it(audit: Audit) -> None:
    asked = dataclasses.replace(INTENT, verdict="ask", approved_by="admin-key")
    await audit.intend(asked)

    assert (await audit.recent(1))[0].intent == asked


async def test_calls_are_found_by_tool_and_by_session(audit: Audit) -> None:
    await audit.intend(INTENT)
    other = await audit.intend(dataclasses.replace(INTENT, tool="read_file"))
    alone = await audit.intend(dataclasses.replace(INTENT, tool="read_file", session=None))
    third = await audit.intend(dataclasses.replace(INTENT, tool="read_file", session="x' OR 1=1 --"))

    assert [entry.id for entry in await audit.recent(9, tool="read_file")] == [third, alone, other]
    assert [entry.id for entry in await audit.recent(9, tool="read_file", session="default")] == [other]
    assert [entry.id for entry in await audit.recent(9, session="x' OR 1=1 --")] == [third]
    assert await audit.recent(9, tool="nothing") == ()
    assert await audit.recent(9, tool="\ud800") == ()


async def test_account_of_an_older_airlab_is_read_on(tmp_path: Path) -> None:
    """Nobody loses what was written down, and what was not known then is not made up."""
    path = tmp_path / "airlab.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(MIGRATIONS[0])
        old.execute("PRAGMA user_version = 1")
        values = (1, "use", "default", 3, "read_file", "{}", "allow", "inside", "ok")
        columns = "at_ms, actor, session, turn, tool, arguments, verdict, reason, status"
        old.execute(f"INSERT INTO audit ({columns}) VALUES ({', '.join('?' * len(values))})", values)
        old.commit()
    database = await Database.open(path)
    try:
        (entry,) = await Audit(database).recent(9)
    finally:
        await database.close()

    assert (entry.intent.tool, entry.status, entry.intent.approved_by) == ("read_file", "ok", None)
