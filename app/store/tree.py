"""The messages of a session as a tree: how a conversation is found in it, added to it and read from it.

Every function works inside a transaction of its caller. Nothing here knows what a turn's end means, or where a
session's head is.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Sequence

from app.messages import Message, ToolCall
from app.store.db import inserted, storable
from app.store.records import StoredMessage, TokenCount

_CHILDREN = "SELECT id FROM messages WHERE anchor IS ? AND digest = ? AND session = ?"
_ANCHOR_BELOW = "SELECT CASE WHEN digest IS NULL THEN anchor ELSE id END FROM messages WHERE id = ?"
_INSERT = """
INSERT INTO messages
    (session, parent, anchor, digest, turn, role, content, tool_calls, tool_call_id, reasoning, created_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_STORED = """
SELECT m.id, m.parent, m.role, m.content, m.tool_calls, m.tool_call_id, m.reasoning, m.tokens, m.counted_by, m.turn,
    m.created_ms
FROM messages AS m
"""
_PATH = """
WITH RECURSIVE path (id, parent, depth) AS (
    SELECT id, parent, 0 FROM messages WHERE id = ?
    UNION ALL
    SELECT m.id, m.parent, path.depth + 1 FROM path JOIN messages AS m ON m.id = path.parent
)
"""
_WEIGHT = "1 + CASE WHEN m.role = 'tool' THEN 0 ELSE coalesce(m.tokens, length(m.content) / 8) / 4 END"
"""Tokens that a message takes at least, whoever counts; results of tools are cut to what there is room for."""
_TAIL = """
WITH RECURSIVE path (id, parent, depth, role, weight) AS (
    SELECT m.id, m.parent, 0, m.role, <weight> FROM messages AS m WHERE m.id = :leaf
    UNION ALL
    SELECT m.id, m.parent, path.depth + 1, m.role, path.weight + <weight>
    FROM path JOIN messages AS m ON m.id = path.parent WHERE path.role <> 'user' OR path.weight < :most
)
""".replace("<weight>", _WEIGHT)
_OF_TAIL = f"{_TAIL} {_STORED} JOIN path ON path.id = m.id ORDER BY path.depth DESC"
_SUM = """
SELECT count(*), coalesce(sum(coalesce(m.tokens, length(m.content) / 4)), 0)
FROM path JOIN messages AS m ON m.id = path.id
"""
_OF_PATH = f"{_PATH} {_STORED} JOIN path ON path.id = m.id ORDER BY path.depth DESC"
_OF_SESSION = f"{_STORED} WHERE m.session = ? ORDER BY m.id"
_VISIBLE = "SELECT id, anchor, role FROM messages WHERE session = ? AND digest IS NOT NULL ORDER BY id DESC"


def digest(message: Message) -> bytes | None:
    """What a client's message is recognised by: its role and its text without the white space around it.

    None for a part of a tool round: clients do not hold those.
    """
    if not message.visible:
        return None
    return hashlib.sha256(f"{message.role}\n{storable(message.content).strip()}".encode()).digest()


def follow(
    connection: sqlite3.Connection, session: int, start: int | None, said: Sequence[Message]
) -> tuple[int | None, int]:
    """Walk along stored messages for as long as they are what was said.

    Args:
        connection: In a transaction.
        session: The session's row.
        start: The visible message below which to begin; None for the root.
        said: Visible messages only.

    Returns:
        The message where the walk ends (``start`` if it never began), and how many of ``said`` it accounts for. Where
        the same words stand on several branches, the branch that goes on longest wins; among equals, the newest.
    """
    frontier = [start]
    for matched, message in enumerate(said):
        wanted = digest(message)
        # All at once, since only what follows tells which of two answers with the same words was meant.
        found = [child for anchor in frontier for (child,) in connection.execute(_CHILDREN, (anchor, wanted, session))]
        if not found:
            return frontier[-1], matched
        frontier = sorted(found)
    return frontier[-1], len(said)


def add(
    connection: sqlite3.Connection, turn: tuple[int, int], below: int | None, messages: Sequence[Message], *, at_ms: int
) -> list[int]:
    """Add messages, each below the one before it.

    Args:
        connection: In a transaction.
        turn: The rows of the session and of the turn that store them.
        below: The parent of the first; None makes it a root.
        messages: What is added.
        at_ms: When it was said.

    Returns:
        Their ids.
    """
    session_id, turn_id = turn
    parent = below
    anchor = connection.execute(_ANCHOR_BELOW, (below,)).fetchone()[0] if below is not None else None
    added: list[int] = []
    for message in messages:
        known_by = digest(message)
        row = (session_id, parent, anchor, known_by, turn_id, *_columns(message), at_ms)
        parent = inserted(connection, _INSERT, row)
        if known_by is not None:
            anchor = parent
        added.append(parent)
    return added


def path_to(connection: sqlite3.Connection, leaf: int | None) -> tuple[StoredMessage, ...]:
    """The messages from the root down to this one, tool rounds included; none for None."""
    return tuple(map(_stored, connection.execute(_OF_PATH, (leaf,))))


def tail_to(connection: sqlite3.Connection, leaf: int | None, *, most_tokens: int) -> tuple[StoredMessage, ...]:
    """The end of that path: from its root, or from a user message with which it surely takes so many tokens."""
    return tuple(map(_stored, connection.execute(_OF_TAIL, {"leaf": leaf, "most": most_tokens})))


def length_to(connection: sqlite3.Connection, leaf: int) -> tuple[int, int]:
    """How many messages that path has, and about how many tokens."""
    messages, tokens = connection.execute(f"{_PATH} {_SUM}", (leaf,)).fetchone()
    return messages, tokens


def all_of(connection: sqlite3.Connection, session: int) -> tuple[StoredMessage, ...]:
    """Every message of a session, by id."""
    return tuple(map(_stored, connection.execute(_OF_SESSION, (session,))))


def leaves(connection: sqlite3.Connection, session: int) -> list[int]:
    """The last answer of each branch, oldest first. Questions that were never answered make no branch."""
    found: list[int] = []
    leads_to_answer: set[int] = set()
    # What is below a message has a larger id, so it has been seen before.
    for id_, anchor, role in connection.execute(_VISIBLE, (session,)):
        if role == "assistant" and id_ not in leads_to_answer:
            found.append(id_)
        if anchor is not None and (role == "assistant" or id_ in leads_to_answer):
            leads_to_answer.add(anchor)
    return found[::-1]


def require_whole_rounds(messages: Sequence[Message]) -> None:
    """Refuse tool rounds of which a part is missing: no template renders a call without its result.

    Raises:
        ValueError: Something other than an assistant's calls, each round followed by one result for each call.
    """
    waiting: Counter[str | None] = Counter()
    for message in messages:
        if message.role == "assistant" and message.tool_calls and not waiting:
            waiting = Counter(call.id for call in message.tool_calls)
        elif message.role == "tool" and waiting[message.tool_call_id]:
            waiting -= Counter([message.tool_call_id])
        else:
            raise ValueError(f"a message of role {message.role} (call {message.tool_call_id}) does not belong here")
    if waiting:
        raise ValueError(f"these calls have no result: {', '.join(map(str, waiting))}")


def _columns(message: Message) -> tuple[str | None, ...]:
    calls = json.dumps([[call.id, call.name, call.arguments] for call in message.tool_calls])
    return (
        message.role,
        storable(message.content),
        calls if message.tool_calls else None,
        None if message.tool_call_id is None else storable(message.tool_call_id),
        None if message.reasoning is None else storable(message.reasoning),
    )


def _stored(
    row: tuple[int, int | None, str, str, str | None, str | None, str | None, int | None, str | None, int, int],
) -> StoredMessage:
    id_, parent, role, content, calls, tool_call_id, reasoning, tokens, counted_by, turn_id, created_ms = row
    message = Message(
        role=role,  # type: ignore[arg-type] # the table's CHECK allows nothing else
        content=content,
        tool_calls=tuple(ToolCall(*call) for call in json.loads(calls)) if calls else (),
        tool_call_id=tool_call_id,
        reasoning=reasoning,
    )
    count = None if tokens is None or counted_by is None else TokenCount(tokens, counted_by)
    return StoredMessage(id_, parent, message, count, turn_id, created_ms)
