"""A database that an older AirLab wrote is brought up to date, with what is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from app.store.catalog import Catalog
from app.store.db import Database
from app.store.records import SessionKey
from app.store.schema import MIGRATIONS
from app.store.search import Search
from app.store.sessions import Sessions
from app.store.tree import digest
from tests.store.talk import answer, texts, user

KEY = SessionKey("use", "old")


def write_version_2(path: Path) -> None:
    """As AirLab kept conversations before sessions had names."""
    with closing(sqlite3.connect(path)) as connection:
        for step in MIGRATIONS[:2]:
            connection.executescript(step)
        connection.executescript("PRAGMA user_version = 2")
        connection.execute("INSERT INTO sessions VALUES (1, 'use', 'old', NULL, 10, 20)")
        connection.execute("INSERT INTO sessions VALUES (2, 'use', 'empty', NULL, 10, 10)")
        connection.execute("INSERT INTO turns VALUES (1, 1, 'done', 'm', NULL, 10, 20, NULL, '{}')")
        rows = [(1, None, None, user("Old\nquestion")), (2, 1, 1, answer("old answer"))]
        for id_, parent, anchor, message in rows:
            values = (id_, parent, anchor, digest(message), message.role, message.content)
            connection.execute(
                "INSERT INTO messages (id, session, parent, anchor, digest, turn, role, content, created_ms) "
                "VALUES (?, 1, ?, ?, ?, 1, ?, ?, 15)",
                values,
            )
        connection.execute("UPDATE turns SET leaf = 2")
        connection.execute("UPDATE sessions SET head = 2 WHERE id = 1")
        connection.commit()


async def test_old_sessions_get_names_counts_and_are_found(tmp_path: Path) -> None:
    path = tmp_path / "airlab.db"
    write_version_2(path)
    for _ in range(2):  # the second start finds it done
        database = await Database.open(path)
        listed = await Catalog(database).page("use", limit=10)
        by_message = await Search(database).page("use", "answer", limit=10)
        by_question = await Search(database).page("use", "question", limit=10)
        branch = await Sessions(database).branch(KEY)
        await database.close()

        assert [(found.info.key.name, found.info.title, found.info.messages) for found in listed.found] == [
            ("old", "Old question", 2),
            ("empty", None, 0),
        ]
        assert [match.message_id for match in by_message.found[0].matches] == [2]
        assert [match.message_id for match in by_question.found[0].matches] == [1]
        assert texts(branch) == ["Old\nquestion", "old answer"]

    database = await Database.open(path)
    turn = await Sessions(database).open_turn(KEY, [user("new")], from_root=False, model="m")
    await Sessions(database).close_turn(turn.id, answer("newer"))
    assert len((await Search(database).page("use", "newer", limit=10)).found) == 1
    await Catalog(database).remove(KEY)
    assert (await Search(database).page("use", "newer", limit=10)).found == ()
    await database.read(lambda c: c.execute("INSERT INTO messages_fts (messages_fts) VALUES ('integrity-check')"))
    await database.close()
