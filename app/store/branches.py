"""The branches of a session: where a turn begins anew, which branch is the active one, and a copy of one."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from typing import NamedTuple

from app.errors import BadRequestError
from app.store import catalog, tree
from app.store.db import Database, inserted, now_ms, storable
from app.store.records import Again, SessionInfo, SessionKey, SessionView

_MESSAGE = "SELECT id, anchor, role FROM messages WHERE id = ? AND session = ? AND digest IS NOT NULL"
_NEWEST_ANSWER_BELOW = """
WITH RECURSIVE below (id) AS (
    SELECT ? UNION ALL SELECT m.id FROM below JOIN messages AS m ON m.anchor = below.id WHERE m.digest IS NOT NULL
)
SELECT max(m.id) FROM below JOIN messages AS m ON m.id = below.id WHERE m.role = 'assistant'
"""
_COPY = """
INSERT INTO messages (session, parent, anchor, digest, turn, role, content, tool_calls, tool_call_id, reasoning,
    tokens, counted_by, created_ms)
SELECT ?, ?, ?, digest, ?, role, content, tool_calls, tool_call_id, reasoning, tokens, counted_by, created_ms
FROM messages WHERE id = ?
"""


class Undone(NamedTuple):
    """What an undo took off the active branch: the user message, and the session without it."""

    message_id: int
    content: str
    view: SessionView


class Branches:
    """The branches in one database. Callers see to it that no turn of the session runs while its head moves."""

    def __init__(self, database: Database) -> None:
        """Everything is in the database."""
        self._database = database

    async def require(self, key: SessionKey, again: Again) -> None:
        """See that a turn could begin anew there, before anything is begun.

        Raises:
            SessionNotFoundError: There is no such session.
            BadRequestError: There is no such place in it.
        """
        await self._database.read(lambda connection: place(connection, catalog.require(connection, key), again))

    async def fork(self, key: SessionKey, message_id: int | None, new: SessionKey) -> SessionInfo:
        """Copy a branch, with the session's settings, into a new session.

        Args:
            key: The session.
            message_id: The answer up to which it is copied; None for all of the active branch.
            new: The copy.

        Raises:
            SessionNotFoundError: There is no such session.
            BadRequestError: The message is no answer in it.
            AlreadyThereError: The new one is there already.
        """
        return await self._database.write(partial(_fork, key=key, message_id=message_id, new=new))

    async def switch(self, key: SessionKey, message_id: int, *, version: int | None = None) -> SessionView:
        """Make the newest branch through this message the active one.

        Raises:
            SessionNotFoundError: There is no such session.
            BadRequestError: The message is not in it, or nothing was ever answered there.
            PreconditionFailedError: The session's version is another.
        """
        return await self._database.write(partial(_switch, key=key, message_id=message_id, version=version))

    async def undo(self, key: SessionKey, *, version: int | None = None) -> Undone:
        """Take the last user message, with what answered it, off the active branch; it stays stored.

        Raises:
            SessionNotFoundError: There is no such session.
            BadRequestError: The active branch is empty.
            PreconditionFailedError: The session's version is another.
        """
        return await self._database.write(partial(_undo, key=key, version=version))


def place(connection: sqlite3.Connection, info: SessionInfo, again: Again) -> int | None:
    """The message below which a turn begins anew; None for the root.

    Raises:
        BadRequestError: There is no such place.
    """
    if again.way == "resume":
        return _broken_off(connection, info)
    message_id = info.head if again.message_id is None else again.message_id
    if message_id is None:
        raise BadRequestError("nothing was answered on the active branch yet", param="message_id")
    id_, anchor, role = _message(connection, info.row, message_id)
    if again.way == "edit":
        if role != "user":
            raise BadRequestError(f"message {id_} is an answer; name a user message to edit", param="message_id")
        return anchor
    while role != "user":  # a client's own account may hold two answers in a row
        if anchor is None:
            raise BadRequestError(f"message {id_} answers nothing that could be answered again", param="message_id")
        id_, anchor, role = _message(connection, info.row, anchor)
    return id_


def _broken_off(connection: sqlite3.Connection, info: SessionInfo) -> int:
    if info.last_turn is None or info.last_turn[1] == "done":
        raise BadRequestError("there is nothing to resume: the session's last turn is done", code="nothing_to_resume")
    leaf: int | None
    (leaf,) = connection.execute("SELECT leaf FROM turns WHERE id = ?", info.last_turn[:1]).fetchone()
    if leaf is None:
        raise BadRequestError("there is nothing to resume: the last turn stored nothing", code="nothing_to_resume")
    return leaf


def _message(connection: sqlite3.Connection, session: int, message_id: int) -> tuple[int, int | None, str]:
    row: tuple[int, int | None, str] | None = connection.execute(_MESSAGE, (message_id, session)).fetchone()
    if row is None:
        raise BadRequestError(
            f"no user message or answer {message_id} in this session; GET /sessions/{{id}}?view=tree has them",
            param="message_id",
        )
    return row


def _switch(connection: sqlite3.Connection, *, key: SessionKey, message_id: int, version: int | None) -> SessionView:
    info = catalog.require(connection, key, version)
    id_, _, _ = _message(connection, info.row, message_id)
    (head,) = connection.execute(_NEWEST_ANSWER_BELOW, (id_,)).fetchone()
    if head is None:
        raise BadRequestError(f"message {id_} was never answered; regenerate can answer it", param="message_id")
    if head != info.head:
        catalog.move_head(connection, info.row, head, at_ms=now_ms())
    return _viewed(connection, key)


def _undo(connection: sqlite3.Connection, *, key: SessionKey, version: int | None) -> Undone:
    info = catalog.require(connection, key, version)
    path = [stored for stored in tree.path_to(connection, info.head) if stored.message.visible]
    last = max((at for at, stored in enumerate(path) if stored.message.role == "user"), default=None)
    if last is None:
        raise BadRequestError("there is nothing to undo: the active branch holds no user message")
    # A head is an answer: user messages before it that never got one go, too.
    head = next((stored.id for stored in reversed(path[:last]) if stored.message.role == "assistant"), None)
    catalog.move_head(connection, info.row, head, at_ms=now_ms())
    return Undone(path[last].id, path[last].message.content, _viewed(connection, key))


def _fork(connection: sqlite3.Connection, *, key: SessionKey, message_id: int | None, new: SessionKey) -> SessionInfo:
    info = catalog.require(connection, key)
    leaf = info.head if message_id is None else message_id
    if leaf is not None:
        id_, _, role = _message(connection, info.row, leaf)
        if role != "assistant":
            raise BadRequestError(f"message {id_} is no answer; a fork ends with one", param="message_id")
    row, at_ms = catalog.create(connection, new), now_ms()
    connection.execute(
        "UPDATE sessions SET title = ?, titled = ?, settings = ? WHERE id = ?",
        (info.title, info.titled, json.dumps(info.settings.given()), row),
    )
    if leaf is not None:
        model = next(turn.model for turn in reversed(tuple(catalog.turns(connection, info.row))))
        origin = {"forked_from": {"session_id": key.name, "message_id": leaf}}
        turn = inserted(
            connection,
            "INSERT INTO turns (session, status, model, started_ms, ended_ms, detail) VALUES (?, 'done', ?, ?, ?, ?)",
            (row, storable(model), at_ms, at_ms, json.dumps(origin)),
        )
        head = _copied(connection, leaf, (row, turn))
        connection.execute("UPDATE turns SET leaf = ? WHERE id = ?", (head, turn))
        catalog.move_head(connection, row, head, at_ms=at_ms)
    return catalog.require(connection, new)


def _copied(connection: sqlite3.Connection, leaf: int, into: tuple[int, int]) -> int | None:
    """Copy a path into a session and a turn: the copy of its last message."""
    session, turn = into
    parent: int | None = None
    anchor: int | None = None
    for stored in tree.path_to(connection, leaf):
        parent = inserted(connection, _COPY, (session, parent, anchor, turn, stored.id))
        if stored.message.visible:
            anchor = parent
    return parent


def _viewed(connection: sqlite3.Connection, key: SessionKey) -> SessionView:
    found = catalog.view(connection, key=key)
    assert found is not None, "it was there a moment ago, in the same transaction"  # noqa: S101
    return found
