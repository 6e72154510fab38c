"""The sessions of a key: listed, found, named, set, removed. What is said in them is the business of ``sessions``.

Every change that a page shows makes a session's version grow, so that a caller may ask for a change of what it saw and
of nothing else.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from app.errors import AlreadyThereError, BadRequestError, PreconditionFailedError, SessionNotFoundError
from app.store import tree
from app.store.db import Database, inserted, now_ms, storable
from app.store.names import short_name
from app.store.records import Found, SessionInfo, SessionKey, SessionSettings, SessionView, TurnInfo

_INFO = """
SELECT s.id, s.owner, s.name, s.title, s.titled, s.pinned, s.created_ms, s.updated_ms, s.version, s.messages, s.head,
    s.settings, t.id, t.status
FROM sessions AS s LEFT JOIN turns AS t ON t.id = (SELECT max(id) FROM turns WHERE session = s.id)
"""
_TURN = "SELECT id, status, model, started_ms, ended_ms, error, detail, asked FROM turns WHERE session = ?"
_FIRST_SAID = "SELECT content FROM messages WHERE session = ? AND role = 'user' ORDER BY id LIMIT 1"


class Page(NamedTuple):
    """A part of a list; ``next`` is where the rest begins, None at the end."""

    found: tuple[Found, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different; None leaves it as it is."""

    title: str | None = None
    forget_title: bool = False
    """Back to the automatic name."""
    pinned: bool | None = None
    settings: Mapping[str, Any] | None = None
    """Fields of a SessionSettings; a None among them unsets it."""


class Catalog:
    """The sessions in one database."""

    def __init__(self, database: Database) -> None:
        """Everything is in the database."""
        self._database = database

    async def page(self, owner: str, *, limit: int, cursor: str | None = None, pinned: bool | None = None) -> Page:
        """The owner's sessions, the last used first.

        Raises:
            BadRequestError: The cursor is none of ours.
        """
        before = None if cursor is None else _read_cursor(cursor)
        return await self._database.read(partial(_page, owner=owner, limit=limit, before=before, pinned=pinned))

    async def info(self, key: SessionKey) -> SessionInfo | None:
        """The session; None if there is none."""
        return await self._database.read(partial(find, key=key))

    async def tree(self, key: SessionKey) -> SessionView | None:
        """The session with all its messages, on whatever branch, by id; None if there is none."""
        return await self._database.read(partial(view, key=key, whole=True))

    async def create(self, key: SessionKey, change: Change) -> SessionInfo:
        """Make an empty session with a name and settings.

        Raises:
            AlreadyThereError: It is there.
        """

        def work(connection: sqlite3.Connection) -> SessionInfo:
            create(connection, key)
            return _changed(connection, key, change, None)

        return await self._database.write(work)

    async def change(self, key: SessionKey, change: Change, *, version: int | None = None) -> SessionInfo:
        """Change name, pin and settings in one step.

        Args:
            key: The session.
            change: What is to be different.
            version: What the caller saw; None whatever is there.

        Raises:
            SessionNotFoundError: There is none.
            PreconditionFailedError: Its version is another.
        """
        return await self._database.write(lambda connection: _changed(connection, key, change, version))

    async def remove(self, key: SessionKey, *, version: int | None = None) -> None:
        """Remove a session with all that was said in it. Raises as ``change``."""

        def work(connection: sqlite3.Connection) -> None:
            info = require(connection, key, version)
            connection.execute("DELETE FROM sessions WHERE id = ?", (info.row,))

        await self._database.write(work)


def find(connection: sqlite3.Connection, key: SessionKey) -> SessionInfo | None:
    """The session; None if there is none."""
    where = f"{_INFO} WHERE s.owner = ? AND s.name = ?"
    row = connection.execute(where, (storable(key.owner), storable(key.name))).fetchone()
    return None if row is None else _info(row)


def require(connection: sqlite3.Connection, key: SessionKey, version: int | None = None) -> SessionInfo:
    """The session, which must be there, and of this version where one is named.

    Raises:
        SessionNotFoundError: It is not.
        PreconditionFailedError: Its version is another.
    """
    info = find(connection, key)
    if info is None:
        raise SessionNotFoundError(f"no session {key.name[:128]!r}; POST /chat with that session_id makes it")
    if version is not None and version != info.version:
        raise PreconditionFailedError(
            f"the session is at version {info.version}, not {version}: it was changed meanwhile. Read it again"
        )
    return info


def create(connection: sqlite3.Connection, key: SessionKey) -> int:
    """Make an empty session: its row.

    Raises:
        AlreadyThereError: It is there.
    """
    if find(connection, key) is not None:
        raise AlreadyThereError(f"there is a session {key.name[:128]!r} already; choose another session_id")
    at_ms = now_ms()
    statement = "INSERT INTO sessions (owner, name, created_ms, updated_ms) VALUES (?, ?, ?, ?)"
    return inserted(connection, statement, (storable(key.owner), storable(key.name), at_ms, at_ms))


def by_rows(connection: sqlite3.Connection, rows: Sequence[int]) -> dict[int, SessionInfo]:
    """The sessions of these rows."""
    marks = ", ".join("?" * len(rows))
    return {row[0]: _info(row) for row in connection.execute(f"{_INFO} WHERE s.id IN ({marks})", tuple(rows))}


def move_head(connection: sqlite3.Connection, session: int, head: int | None, *, at_ms: int) -> None:
    """Make this answer the end of the active branch; None empties it."""
    statement = "UPDATE sessions SET head = ?, updated_ms = ?, version = version + 1 WHERE id = ?"
    connection.execute(statement, (head, at_ms, session))


def turns(connection: sqlite3.Connection, session: int) -> Iterator[TurnInfo]:
    """The turns of a session, oldest first."""
    return map(_turn, connection.execute(f"{_TURN} ORDER BY id", (session,)))


def last_turn(connection: sqlite3.Connection, session: int) -> TurnInfo | None:
    """The newest turn of a session."""
    row = connection.execute(f"{_TURN} ORDER BY id DESC LIMIT 1", (session,)).fetchone()
    return None if row is None else _turn(row)


def view(connection: sqlite3.Connection, *, key: SessionKey, whole: bool = False) -> SessionView | None:
    """The session as it stands, its active branch or with ``whole`` its tree; None if there is none."""
    info = find(connection, key)
    if info is None:
        return None
    shown = tree.all_of(connection, info.row) if whole else tree.path_to(connection, info.head)
    return SessionView(info, shown, tuple(turns(connection, info.row)))


def settings_of(text: str) -> SessionSettings:
    """Settings as they are stored. What a newer AirLab put there is not known here, and passed over."""
    stored = json.loads(text)
    return SessionSettings(**{name: stored[name] for name in SessionSettings.__dataclass_fields__ if name in stored})


def _page(
    connection: sqlite3.Connection, *, owner: str, limit: int, before: tuple[int, int] | None, pinned: bool | None
) -> Page:
    where, values = ["s.owner = ?"], [owner]
    if before is not None:
        where.append("(s.updated_ms, s.id) < (?, ?)")
        values += [*before]  # type: ignore[list-item] # SQL's values are of any type
    if pinned is not None:
        where.append(f"s.pinned = {int(pinned)}")
    query = f"{_INFO} WHERE {' AND '.join(where)} ORDER BY s.updated_ms DESC, s.id DESC LIMIT {limit + 1}"
    infos = [_info(row) for row in connection.execute(query, values)]
    shown = infos[:limit]
    rest = f"{shown[-1].updated_ms}.{shown[-1].row}" if len(infos) > limit else None
    return Page(tuple(Found(info, ()) for info in shown), rest)


def _read_cursor(cursor: str) -> tuple[int, int]:
    read = re.fullmatch(r"([0-9]{1,18})\.([0-9]{1,18})", cursor)
    if read is None:
        raise BadRequestError("cursor must be a `next_cursor` of an answer before", param="cursor")
    return int(read[1]), int(read[2])


def _changed(connection: sqlite3.Connection, key: SessionKey, change: Change, version: int | None) -> SessionInfo:
    info = require(connection, key, version)
    title, titled = info.title, info.titled
    if change.title is not None:
        title, titled = change.title, True
    elif change.forget_title:
        said = connection.execute(_FIRST_SAID, (info.row,)).fetchone()
        title, titled = short_name(said[0]) if said else None, False
    pinned = info.pinned if change.pinned is None else change.pinned
    settings = replace(info.settings, **(change.settings or {}))
    connection.execute(
        "UPDATE sessions SET title = ?, titled = ?, pinned = ?, settings = ?, version = version + 1 WHERE id = ?",
        (None if title is None else storable(title), titled, pinned, json.dumps(settings.given()), info.row),
    )
    return require(connection, key)


def _info(row: tuple[Any, ...]) -> SessionInfo:
    id_, owner, name, title, titled, pinned, created, updated, version, messages, head, settings, turn, status = row
    return SessionInfo(
        row=id_,
        key=SessionKey(owner, name),
        title=title,
        titled=bool(titled),
        pinned=bool(pinned),
        created_ms=created,
        updated_ms=updated,
        version=version,
        messages=messages,
        head=head,
        settings=settings_of(settings),
        last_turn=None if turn is None else (turn, status),
    )


def _turn(row: tuple[Any, ...]) -> TurnInfo:
    id_, status, model, started_ms, ended_ms, error, detail, asked = row
    return TurnInfo(id_, status, model, started_ms, ended_ms, error, json.loads(detail or "{}"), settings_of(asked))
