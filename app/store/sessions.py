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
from app.store import branches, catalog, tree
from app.store.db import Database, inserted, now_ms, storable
from app.store.names import short_name
from app.store.records import (
    Again,
    Kept,
    KeptAnswer,
    Once,
    OpenTurn,
    SessionKey,
    SessionSettings,
    SessionView,
    StoredMessage,
    TokenCount,
    TurnInfo,
)
from app.store.tail import read_tail

Unfinished = Literal["cancelled", "failed"]

KEPT_ANSWERS, KEPT_MS = 1000, 24 * 3600 * 1000
"""How many answers are kept for retries, for each owner, and for how long."""

_INTERRUPT = "UPDATE turns SET status = 'interrupted', ended_ms = ?, error = ? WHERE status = 'open'"
_STOPPED = "AirLab stopped before the answer was complete"
_ABANDONED = "The turn was left before the answer was complete"


class Sessions:
    """The conversations in one database."""

    def __init__(self, database: Database) -> None:
        """Everything is in the database: several of these on the same one are the same."""
        self._database = database

    async def open_turn(
        self,
        key: SessionKey,
        said: Sequence[Message],
        *,
        from_root: bool,
        model: str,
        again: Again | None = None,
        asked: SessionSettings | None = None,
        most_tokens: int | None = None,
    ) -> OpenTurn:
        """Begin a turn with what the client said, in one transaction; an unknown session is created.

        What is stored already is found again, not stored twice: the longest stored path with the same roles and
        stripped texts is continued, and only what is left is added below it.

        Args:
            key: The session.
            said: The client's messages. Only user messages and answers count; tool rounds and system messages are
                passed over.
            from_root: True if ``said`` is the whole conversation, False if it goes below the active branch.
            model: Key of the model that will answer.
            again: The place in the stored tree below which ``said`` goes, in place of the active branch's end.
            asked: What the request itself set.
            most_tokens: What of the conversation a model can be shown at most; None reads all of it.

        Raises:
            SessionNotFoundError: ``again`` names a place in a session that is not there.
            BadRequestError: ``again`` names no place in it.
            StorageFullError: The disk is full; no turn was opened.
            StorageError: SQLite refused.
        """
        visible = [message for message in said if message.visible]
        begin: Again | Literal["root", "head"] = again or ("root" if from_root else "head")
        settings = asked or SessionSettings()
        work = partial(_open_turn, key=key, said=visible, begin=begin, model=model, asked=settings, most=most_tokens)
        return await self._database.write(work)

    async def last_turn(self, key: SessionKey) -> TurnInfo | None:
        """The newest turn of a session; None where there is none."""

        def work(connection: sqlite3.Connection) -> TurnInfo | None:
            info = catalog.find(connection, key)
            return None if info is None else catalog.last_turn(connection, info.row)

        return await self._database.read(work)

    async def kept(self, once: Once) -> KeptAnswer | None:
        """What was answered under this key; None where nothing was, or too long ago."""
        query = "SELECT request, events, message FROM answers WHERE owner = ? AND key = ? AND at_ms > ?"
        values = (storable(once.owner), once.key, now_ms() - KEPT_MS)
        row = await self._database.read(lambda connection: connection.execute(query, values).fetchone())
        return None if row is None else KeptAnswer(*row)

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
        kept: Kept | None = None,
    ) -> int:
        """Store the answer, make it the session's head and call the turn done, in one transaction.

        Args:
            turn_id: An open turn.
            answer: What the client is given: an assistant message without tool calls.
            counts: Lengths of messages on the turn's path, by message id; they replace what was stored.
            detail: Whatever is worth keeping of the turn, as a JSON object.
            kept: What a retry of the request is to be answered.

        Returns:
            The answer's message id. Once this returns, the answer survives a crash.

        Raises:
            ValueError: The answer is none.
            StorageError: The turn is not open, or SQLite refused; the turn is still open then, if it was.
        """
        if answer.role != "assistant" or answer.tool_calls:
            raise ValueError("a turn is closed by an assistant message without tool calls")
        close = partial(_close_turn, turn_id=turn_id, answer=answer, detail=json.dumps(detail or {}))
        return await self._database.write(partial(close, counts=counts or {}, kept=kept))

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
            catalog.move_head(connection, session_id, None, at_ms=now_ms())

        await self._database.write(work)

    async def branch(self, key: SessionKey) -> tuple[StoredMessage, ...]:
        """The active branch, root first, tool rounds included; empty for an unknown session."""
        return await self._database.read(lambda connection: _branch(connection, key))

    async def view(self, key: SessionKey) -> SessionView | None:
        """The session as it stands; None if there is none."""
        return await self._database.read(partial(catalog.view, key=key))


def _open_turn(
    connection: sqlite3.Connection,
    *,
    key: SessionKey,
    said: Sequence[Message],
    begin: Again | Literal["root", "head"],
    model: str,
    asked: SessionSettings,
    most: int | None,
) -> OpenTurn:
    if isinstance(begin, Again):
        catalog.require(connection, key)
    session_id, head = _found_or_created(connection, key)
    at_ms = now_ms()
    # Turns run one after another, so nobody owns a turn that is still open: its caller was cancelled while it began,
    # or the disk was too full to write down its end.
    connection.execute(f"{_INTERRUPT} AND session = ?", (at_ms, _ABANDONED, session_id))
    previous = catalog.last_turn(connection, session_id)

    if isinstance(begin, Again):
        start = branches.place(connection, catalog.require(connection, key), begin)
    else:
        start = head if begin == "head" else None
    place, matched = tree.follow(connection, session_id, start, said)
    turn_id = inserted(
        connection,
        "INSERT INTO turns (session, status, model, started_ms, asked) VALUES (?, 'open', ?, ?, ?)",
        (session_id, storable(model), at_ms, json.dumps(asked.given())),
    )
    added = tree.add(connection, (session_id, turn_id), place, said[matched:], at_ms=at_ms)
    leaf = added[-1] if added else place
    connection.execute("UPDATE turns SET leaf = ? WHERE id = ?", (leaf, turn_id))
    title = next((name for message in said if message.role == "user" and (name := short_name(message.content))), None)
    connection.execute(
        "UPDATE sessions SET updated_ms = ?, title = coalesce(title, ?) WHERE id = ?",
        (at_ms, None if title is None else storable(title), session_id),
    )

    unfinished = previous if previous is not None and previous.status != "done" else None
    path, earlier, last_cut = read_tail(connection, leaf, most_tokens=most)
    return OpenTurn(turn_id, path, unfinished, earlier, last_cut)


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
    kept: Kept | None,
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
    catalog.move_head(connection, session_id, answer_id, at_ms=at_ms)
    if kept is not None:
        _keep(connection, kept, (session_id, answer_id), at_ms=at_ms)
    return answer_id


def _keep(connection: sqlite3.Connection, kept: Kept, answer: tuple[int, int], *, at_ms: int) -> None:
    """Remember what a retry is to be answered, and forget what is too old or too much."""
    once, owner = kept.once, storable(kept.once.owner)
    connection.execute(
        "INSERT OR REPLACE INTO answers (owner, key, request, session, message, events, at_ms) VALUES (?,?,?,?,?,?,?)",
        (owner, once.key, once.request, *answer, storable(kept.events), at_ms),
    )
    connection.execute("DELETE FROM answers WHERE owner = ? AND at_ms <= ?", (owner, at_ms - KEPT_MS))
    connection.execute(
        "DELETE FROM answers WHERE owner = ? AND rowid IN "
        "(SELECT rowid FROM answers WHERE owner = ? ORDER BY at_ms DESC, rowid DESC LIMIT -1 OFFSET ?)",
        (owner, owner, KEPT_ANSWERS),
    )


def _open_place(connection: sqlite3.Connection, turn_id: int) -> tuple[int, int | None]:
    """The turn's session and its last message."""
    row = connection.execute("SELECT session, leaf FROM turns WHERE id = ? AND status = 'open'", (turn_id,)).fetchone()
    if row is None:
        raise StorageError(f"turn {turn_id} is not open any more: nothing can be added to it. Send the message again")
    session_id, leaf = row
    return session_id, leaf


def _found_or_created(connection: sqlite3.Connection, key: SessionKey) -> tuple[int, int | None]:
    """The session's row and head."""
    found = catalog.find(connection, key)
    return (catalog.create(connection, key), None) if found is None else (found.row, found.head)


def _branch(connection: sqlite3.Connection, key: SessionKey) -> tuple[StoredMessage, ...]:
    found = catalog.find(connection, key)
    return tree.path_to(connection, found.head) if found is not None else ()
