"""Short ways to hold a conversation with the store and to say what came of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from app.messages import Message, ToolCall
from app.store.db import Database
from app.store.records import OpenTurn, SessionKey, StoredMessage
from app.store.sessions import Sessions

KEY = SessionKey("use", "default")


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str) -> Message:
    return Message("assistant", text)


def tool_round(*call_ids: str, name: str = "get_current_time") -> list[Message]:
    """An assistant's calls and their results."""
    calls = tuple(ToolCall(call_id, name, "{}") for call_id in call_ids)
    results = [Message("tool", f'{{"of": "{call_id}"}}', tool_call_id=call_id) for call_id in call_ids]
    return [Message("assistant", "", tool_calls=calls), *results]


def messages(path: Sequence[StoredMessage]) -> list[Message]:
    return [stored.message for stored in path]


def texts(path: Sequence[StoredMessage]) -> list[str]:
    """What a client would see."""
    return [stored.message.content for stored in path if stored.message.visible]


class Talk:
    """One session, spoken with in the two ways that clients have."""

    def __init__(self, database: Database, key: SessionKey = KEY) -> None:
        self.database = database
        self.sessions = Sessions(database)
        self.key = key

    async def open(self, *said: Message, from_root: bool = False) -> OpenTurn:
        return await self.sessions.open_turn(self.key, said, from_root=from_root, model="smol")

    async def say(self, text: str, reply: str, rounds: Sequence[Message] = ()) -> int:
        """A turn below the active branch: the answer's id."""
        return await self._answered(await self.open(user(text)), reply, rounds)

    async def say_all(self, array: Sequence[Message], reply: str, rounds: Sequence[Message] = ()) -> int:
        """A turn with the client's whole account: the answer's id."""
        return await self._answered(await self.open(*array, from_root=True), reply, rounds)

    async def branch(self) -> list[str]:
        return texts(await self.sessions.branch(self.key))

    async def stored(self) -> int:
        """How many messages the whole database holds."""
        return await self.database.read(count_messages)

    async def _answered(self, turn: OpenTurn, reply: str, rounds: Sequence[Message]) -> int:
        if rounds:
            await self.sessions.append(turn.id, rounds)
        return await self.sessions.close_turn(turn.id, answer(reply))


def count_messages(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM messages").fetchone()
    assert isinstance(count, int)
    return count
