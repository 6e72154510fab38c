"""Conversations as sessions of turns: opened, added to, closed, each step one transaction.

Which messages a model sees, and when a turn fails, is decided by chat; that turns of one session run one after another
is seen to there as well.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

from app.errors import StorageError
from app.messages import Message
from app.store import tree
from app.store.db import Database, inserted, now_ms, storable
from app.store.records import OpenTurn, SessionKey, SessionView, StoredMessage, TokenCount, TurnInfo

Unfinished = Literal["cancelled", "failed"]

_TURN = "SELECT id, status, model, started_ms, ended_ms, error, detail FROM turns WHERE session = ?"
_INTERRUPT = "UPDATE turns SET status = 'interrupted', ended_ms = ?, error = ? WHERE status = 'open'"
_STOPPED = "AirLab stopped before the answer was complete"
_ABANDONED = "The turn was left before the answer was complete"


class Sessions:
    """The conversations in one database."""

    def __init__(self, database: Database) -> None:
        """Everything is in the database: several of these on the same one are the same."""
        self._database = database

    async def open_turn(self, key: SessionKey, said: Sequence[Message], *, from_root: bool, model: str) -> OpenTurn:
        """Begin a turn with what the client said, in one transaction; an unknown session is created.

        What is stored already is found again, not stored twice: the longest stored path with the same roles and
        stripped texts is continued, and only what is left is added below it.

        Args:
            key: The session.
            said: The client's messages. Only user messages and answers count; tool rounds and system messages are
                passed over.
            from_root: True if ``said`` is the whole conversation, False if it goes below the active branch.
            model: Key of the model that will answer.

        Raises:
            StorageFullError: The disk is full; no turn was opened.
            StorageError: SQLite refused.
        """
        visible = [message for message in said if message.visible]
        return await self._database.write(partial(_open_turn, key=key, said=visible, from_root=from_root, model=model))

    async def append(self, turn_id: int, rounds: Sequence[Message]) -> tuple[int, ...]:
        """Add whole tool rounds below the turn's last message: their ids.

        Raises:
            ValueError: A call lacks its result, or something here is no part of a round.
            StorageError: The turn is not open, or SQLite refused.
        """
        tree.require_whole_rounds(rounds)
        return await self._database.write(partial(_append, turn_id=turn_id, messages=rounds))

    async def close_turn(
        self,
        turn_id: int,
        answer: Message,
        *,
        counts: Mapping[int, TokenCount] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> int:
        """Store the answer, make it the session's head and call the turn done, in one transaction.

        Args:
            turn_id: An open turn.
            answer: What the client is given: an assistant message without tool calls.
            counts: Lengths of messages on the turn's path, by message id; they replace what was stored.
            detail: Whatever is worth keeping of the turn, as a JSON object.

        Returns:
            The answer's message id. Once this returns, the answer survives a crash.

        Raises:
            ValueError: The answer is none.
            StorageError: The turn is not open, or SQLite refused; the turn is still open then, if it was.
        """
        if answer.role != "assistant" or answer.tool_calls:
            raise ValueError("a turn is closed by an assistant message without tool calls")
        close = partial(_close_turn, turn_id=turn_id, answer=answer, detail=json.dumps(detail or {}))
        return await self._database.write(partial(close, counts=counts or {}))

    async def end_turn(self, turn_id: int, status: Unfinished, error: str | None = None) -> bool:
        """Give a turn up; what it stored stays, the session's head does not move.

        Returns:
            False if the turn was not open any more: a cancelled ``close_turn`` may have been wholly done.

        Raises:
            StorageError: SQLite refused; the next turn of the session calls this one interrupted then.
        """
        if status not in get_args(Unfinished):
            raise ValueError(f"a turn may end as {' or '.join(get_args(Unfinished))}, not as {status}")
        statement = "UPDATE turns SET status = ?, ended_ms = ?, error = ? WHERE id = ? AND status = 'open'"
        values = (status, now_ms(), None if error is None else storable(error), turn_id)
        return await self._database.write(lambda connection: connection.execute(statement, values).rowcount == 1)

    async def interrupt_open_turns(self) -> int:
        """At start: mark the turns that the last run left open as interrupted. How many there were."""
        return await self._database.write(lambda c: c.execute(_INTERRUPT, (now_ms(), _STOPPED)).rowcount)

    async def reset(self, key: SessionKey) -> None:
        """Start an empty branch; all that was said stays stored. An unknown session is created."""

        def work(connection: sqlite3.Connection) -> None:
            session_id, _ = _found_or_created(connection, key)
            connection.execute("UPDATE sessions SET head = NULL, updated_ms = ? WHERE id = ?", (now_ms(), session_id))

        await self._database.write(work)

    async def branch(self, key: SessionKey) -> tuple[StoredMessage, ...]:
        """The active branch, root first, tool rounds included; empty for an unknown session."""
        return await self._database.read(lambda connection: _branch(connection, key))

    async def view(self, key: SessionKey) -> SessionView | None:
        """The session as it stands; None if there is none."""
        return await self._database.read(lambda connection: _view(connection, key))


def _open_turn(
    connection: sqlite3.Connection, *, key: SessionKey, said: Sequence[Message], from_root: bool, model: str
) -> OpenTurn:
    session_id, head = _found_or_created(connection, key)
    at_ms = now_ms()
    # Turns run one after another, so nobody owns a turn that is still open: its caller was cancelled while it began,
    # or the disk was too full to write down its end.
    connection.execute(f"{_INTERRUPT} AND session = ?", (at_ms, _ABANDONED, session_id))
    last = connection.execute(f"{_TURN} ORDER BY id DESC LIMIT 1", (session_id,)).fetchone()

    place, matched = tree.follow(connection, session_id, None if from_root else head, said)
    turn_id = inserted(
        connection,
        "INSERT INTO turns (session, status, model, started_ms) VALUES (?, 'open', ?, ?)",
        (session_id, storable(model), at_ms),
    )
    added = tree.add(connection, (session_id, turn_id), place, said[matched:], at_ms=at_ms)
    leaf = added[-1] if added else place
    connection.execute("UPDATE turns SET leaf = ? WHERE id = ?", (leaf, turn_id))
    connection.execute("UPDATE sessions SET updated_ms = ? WHERE id = ?", (at_ms, session_id))

    previous = _turn(last) if last is not None else None
    unfinished = previous if previous is not None and previous.status != "done" else None
    return OpenTurn(turn_id, tree.path_to(connection, leaf), unfinished)


def _append(connection: sqlite3.Connection, *, turn_id: int, messages: Sequence[Message]) -> tuple[int, ...]:
    session_id, leaf = _open_place(connection, turn_id)
    added = tree.add(connection, (session_id, turn_id), leaf, messages, at_ms=now_ms())
    if added:
        connection.execute("UPDATE turns SET leaf = ? WHERE id = ?", (added[-1], turn_id))
    return tuple(added)


def _close_turn(
    connection: sqlite3.Connection,
    *,
    turn_id: int,
    answer: Message,
    counts: Mapping[int, TokenCount],
    detail: str,
) -> int:
    session_id, leaf = _open_place(connection, turn_id)
    at_ms = now_ms()
    (answer_id,) = tree.add(connection, (session_id, turn_id), leaf, [answer], at_ms=at_ms)
    connection.executemany(
        "UPDATE messages SET tokens = ?, counted_by = ? WHERE id = ? AND session = ?",
        [(tokens, storable(counted_by), id_, session_id) for id_, (tokens, counted_by) in counts.items()],
    )
    connection.execute(
        "UPDATE turns SET status = 'done', leaf = ?, ended_ms = ?, detail = ? WHERE id = ?",
        (answer_id, at_ms, detail, turn_id),
    )
    connection.execute("UPDATE sessions SET head = ?, updated_ms = ? WHERE id = ?", (answer_id, at_ms, session_id))
    return answer_id


def _open_place(connection: sqlite3.Connection, turn_id: int) -> tuple[int, int | None]:
    """The turn's session and its last message."""
    row = connection.execute("SELECT session, leaf FROM turns WHERE id = ? AND status = 'open'", (turn_id,)).fetchone()
    if row is None:
        raise StorageError(f"turn {turn_id} is not open any more: nothing can be added to it. Send the message again")
    session_id, leaf = row
    return session_id, leaf


def _found(connection: sqlite3.Connection, key: SessionKey) -> tuple[int, int | None, int, int] | None:
    """The session's row: id, head, created_ms, updated_ms."""
    found: tuple[int, int | None, int, int] | None = connection.execute(
        "SELECT id, head, created_ms, updated_ms FROM sessions WHERE owner = ? AND name = ?",
        (storable(key.owner), storable(key.name)),
    ).fetchone()
    return found


def _found_or_created(connection: sqlite3.Connection, key: SessionKey) -> tuple[int, int | None]:
    """The session's id and head."""
    found = _found(connection, key)
    if found is not None:
        return found[:2]
    at_ms = now_ms()
    statement = "INSERT INTO sessions (owner, name, created_ms, updated_ms) VALUES (?, ?, ?, ?)"
    return inserted(connection, statement, (storable(key.owner), storable(key.name), at_ms, at_ms)), None


def _branch(connection: sqlite3.Connection, key: SessionKey) -> tuple[StoredMessage, ...]:
    found = _found(connection, key)
    return tree.path_to(connection, found[1]) if found is not None else ()


def _view(connection: sqlite3.Connection, key: SessionKey) -> SessionView | None:
    found = _found(connection, key)
    if found is None:
        return None
    session_id, head, created_ms, updated_ms = found
    turns = tuple(map(_turn, connection.execute(f"{_TURN} ORDER BY id", (session_id,))))
    return SessionView(key, created_ms, updated_ms, tree.path_to(connection, head), turns)


def _turn(row: tuple[Any, ...]) -> TurnInfo:
    id_, status, model, started_ms, ended_ms, error, detail = row
    return TurnInfo(id_, status, model, started_ms, ended_ms, error, json.loads(detail or "{}"))
