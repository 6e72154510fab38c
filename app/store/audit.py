"""The account of tool calls: each written down before it runs, and again when it has ended.

A call whose intent cannot be written must not run; seeing to that is the gate's part. Nothing here judges a call.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from app import units
from app.errors import StorageError
from app.store.db import Database, inserted, now_ms, storable

ARGUMENTS_LIMIT_BYTES = 64 * units.KIB

_INSERT = """
INSERT INTO audit (at_ms, actor, session, turn, tool, arguments, verdict, reason, approved_by)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_RECORD = "UPDATE audit SET status = ?, duration_s = ?, result_bytes = ? WHERE id = ? AND status IS NULL"
_RECENT = """
SELECT id, at_ms, status, duration_s, result_bytes, actor, session, turn, tool, arguments, verdict, reason, approved_by
FROM audit WHERE {where} ORDER BY id DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that is about to run, or was refused."""

    actor: str
    """Name of the key that asked for it."""
    session: str | None
    """The session_id, None outside conversations."""
    turn: int | None
    tool: str
    arguments: str
    """As the model wrote them; kept up to ``ARGUMENTS_LIMIT_BYTES``."""
    verdict: Literal["allow", "ask", "deny"]
    reason: str
    """Why it was allowed or denied, in words."""
    approved_by: str | None = None
    """Name of the key that said yes where the verdict was ask; without one the call was not run."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A line of the account."""

    id: int
    at_ms: int
    intent: Intent
    status: Literal["ok", "error", "denied", "unfinished"]
    """``unfinished``: it runs, or AirLab ended before it did; whether it had an effect is not known."""
    duration_s: float | None
    result_bytes: int | None


class Audit:
    """The account in one database."""

    def __init__(self, database: Database) -> None:
        """Everything is in the database."""
        self._database = database

    async def intend(self, intent: Intent, *, durable: bool = True) -> int:
        """Write down that a call is about to run: the id to record its result under.

        Not ``durable``: a power cut may take the row, as it does the memory of whoever asked; for calls that change
        nothing, where waiting for the disk would take longer than the call.

        Raises:
            StorageFullError: The disk is full: the call must not run.
            StorageError: SQLite refused: the call must not run.
        """
        values = (
            now_ms(),
            storable(intent.actor),
            None if intent.session is None else storable(intent.session),
            intent.turn,
            storable(intent.tool),
            _capped(storable(intent.arguments)),
            intent.verdict,
            storable(intent.reason),
            intent.approved_by,
        )
        return await self._database.write(lambda connection: inserted(connection, _INSERT, values), durable=durable)

    async def record(
        self,
        audit_id: int,
        *,
        status: Literal["ok", "error", "denied"],
        duration_s: float,
        result_bytes: int,
        durable: bool = True,
    ) -> None:
        """Write down how the call ended; ``durable`` as ``intend`` takes it. What is recorded is never changed.

        Raises:
            StorageError: There is no such call, its end is recorded already, or SQLite refused.
        """
        values = (status, duration_s, result_bytes, audit_id)

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(_RECORD, values).rowcount != 1:
                raise StorageError(f"audit: call {audit_id} is unknown, or its end is recorded already")

        await self._database.write(work, durable=durable)

    async def recent(
        self, limit: int, *, tool: str | None = None, session: str | None = None
    ) -> tuple[AuditEntry, ...]:
        """The last calls, newest first; with ``tool`` or ``session`` only those of that name.

        Raises:
            StorageError: SQLite refused.
        """
        wanted = {"tool": tool, "session": session}
        given = {column: storable(value) for column, value in wanted.items() if value is not None}
        query = _RECENT.format(where=" AND ".join(f"{column} = ?" for column in given) or "TRUE")
        values = (*given.values(), limit)
        rows = await self._database.read(lambda connection: connection.execute(query, values).fetchall())
        return tuple(map(_entry, rows))


def _entry(row: tuple[Any, ...]) -> AuditEntry:
    id_, at_ms, status, duration_s, result_bytes, *intent = row
    return AuditEntry(id_, at_ms, Intent(*intent), status or "unfinished", duration_s, result_bytes)


def _capped(arguments: str) -> str:
    whole = arguments.encode()
    if len(whole) <= ARGUMENTS_LIMIT_BYTES:
        return arguments
    kept = whole[:ARGUMENTS_LIMIT_BYTES].decode(errors="ignore")
    return f"{kept} [cut here: {len(whole)} bytes in all]"
