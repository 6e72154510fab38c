"""Reads whole sessions for an export, one at a time: how many there are costs no memory.

Each session is read at one moment; between two sessions the store does what others ask of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.messages import Message
from app.store import catalog, tree
from app.store.db import Database, storable
from app.store.records import SessionInfo, SessionKey, StoredMessage

_ROWS = "SELECT id FROM sessions WHERE owner = :owner AND id > :after"
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions of an owner are exported."""

    owner: str
    names: Sequence[str] = ()
    """Their session_ids; all without any."""
    pinned: bool | None = None
    since_ms: int | None = None
    """Changed at that time or later."""
    all_branches: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """One way through a session's tree, root first; it ends with an answer."""

    messages: tuple[Message, ...]
    system_prompt: str | None
    """What the last turn's request, or the session, set; None: the server's."""
    message_id: int
    """Of the answer that it ends with."""
    is_active: bool
    """Whether a new message would go on from there."""


@dataclass(frozen=True, slots=True)
class Harvested:
    """A session with its branches."""

    info: SessionInfo
    branches: tuple[Branch, ...]


class Harvest:
    """Exports out of one database."""

    def __init__(self, database: Database) -> None:
        """Everything is in the database."""
        self._database = database

    async def require(self, owner: str, names: Sequence[str]) -> None:
        """Say which of these sessions is not there, before anything is sent.

        Raises:
            SessionNotFoundError: One is not.
        """

        def work(connection: sqlite3.Connection) -> None:
            for name in names:
                catalog.require(connection, SessionKey(owner, name))

        await self._database.read(work)

    async def sessions(self, wanted: Wanted) -> AsyncIterator[Harvested]:
        """The sessions, oldest first; those without an answer are passed over, and what is removed meanwhile."""
        after = 0
        while rows := await self._database.read(partial(_rows, wanted=wanted, after=after)):
            for row in rows:
                found = await self._database.read(partial(_harvested, row=row, all_branches=wanted.all_branches))
                if found is not None and found.branches:
                    yield found
            after = rows[-1]


def _rows(connection: sqlite3.Connection, *, wanted: Wanted, after: int) -> list[int]:
    query, values = _ROWS, dict[str, Any](owner=storable(wanted.owner), after=after)
    if wanted.names:
        named = {f"name{at}": storable(name) for at, name in enumerate(wanted.names)}
        query, values = f"{query} AND name IN ({', '.join(f':{mark}' for mark in named)})", {**values, **named}
    if wanted.pinned is not None:
        query, values = f"{query} AND pinned = :pinned", {**values, "pinned": wanted.pinned}
    if wanted.since_ms is not None:
        query, values = f"{query} AND updated_ms >= :since", {**values, "since": wanted.since_ms}
    return [row for (row,) in connection.execute(f"{query} ORDER BY id LIMIT {_AT_ONCE}", values)]


def _harvested(connection: sqlite3.Connection, *, row: int, all_branches: bool) -> Harvested | None:
    info = catalog.by_rows(connection, [row]).get(row)
    if info is None:
        return None
    if all_branches:
        # What branches have in common is read and held once: a long text may stand at the root of hundreds of them.
        stored = {message.id: message for message in tree.all_of(connection, row)}
        paths = [_path(stored, leaf) for leaf in tree.leaves(connection, row)]
    else:
        paths = [] if info.head is None else [list(tree.path_to(connection, info.head))]
    prompts = {turn.id: turn.asked.system_prompt for turn in catalog.turns(connection, row)}
    return Harvested(info, tuple(_branch(info, prompts, path) for path in paths))


def _path(stored: Mapping[int, StoredMessage], leaf: int) -> list[StoredMessage]:
    """The messages from the root down to this one."""
    path, at = [], stored.get(leaf)
    while at is not None:
        path.append(at)
        at = None if at.parent is None else stored[at.parent]
    return path[::-1]


def _branch(info: SessionInfo, prompts: Mapping[int, str | None], path: Sequence[StoredMessage]) -> Branch:
    asked = prompts.get(path[-1].turn_id)
    prompt = info.settings.system_prompt if asked is None else asked
    last = path[-1].id
    return Branch(tuple(stored.message for stored in path), prompt, last, last == info.head)
