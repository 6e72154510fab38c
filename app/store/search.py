"""Full-text search in the sessions of one key, by SQLite's FTS5. What a caller types is words, never a query language.

The work of one search is bounded: it looks at so many hits, newest first, and says where the rest begins.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from functools import partial

from app.errors import BadRequestError
from app.store import catalog
from app.store.catalog import Page
from app.store.db import Database, storable
from app.store.records import Found, Match

QUERY_CHARACTERS = 200
_WORDS = 16
_HITS = 500
"""How many hits one search looks at: a word that everybody uses must not hold up the store."""
_SNIPPET_TOKENS = 16
_SNIPPET_FROM_CHARACTERS = 64 * 1024
"""Of a longer message only the beginning is shown: marking words in a megabyte takes too long."""

# A name that nobody set is the beginning of a message, which is found by itself.
_TITLES = """
SELECT s.id, highlight(titles_fts, 0, :begin, :end) FROM titles_fts JOIN sessions AS s ON s.id = titles_fts.rowid
WHERE titles_fts MATCH :match AND s.titled AND s.owner = :owner AND (:pinned IS NULL OR s.pinned = :pinned)
ORDER BY titles_fts.rowid DESC LIMIT :limit
"""
_MESSAGES = """
SELECT m.id, m.role, s.id, s.owner = :owner AND (:pinned IS NULL OR s.pinned = :pinned)
FROM (SELECT rowid AS id FROM messages_fts WHERE messages_fts MATCH :match AND rowid < :before
      ORDER BY rowid DESC LIMIT :hits) AS hit
CROSS JOIN messages AS m ON m.id = hit.id CROSS JOIN sessions AS s ON s.id = m.session
"""
_SNIPPET = """
SELECT CASE WHEN length(m.content) > :long THEN substr(m.content, 1, 120) || '…'
    ELSE snippet(messages_fts, 0, :begin, :end, '…', :tokens) END
FROM messages_fts JOIN messages AS m ON m.id = messages_fts.rowid
WHERE messages_fts MATCH :match AND messages_fts.rowid = :id
"""
_LAST_ID = 2**63 - 1


class Search:
    """Search in one database."""

    def __init__(self, database: Database) -> None:
        """Everything is in the database."""
        self._database = database

    async def page(
        self, owner: str, text: str, *, limit: int, cursor: str | None = None, pinned: bool | None = None
    ) -> Page:
        """The owner's sessions in which all these words occur in one message, or in the name; newest matches first.

        A page may be short before the end of the list. A session comes again on a later page where older messages of it
        match.

        Raises:
            BadRequestError: The text is too long, or the cursor none of ours.
        """
        if len(text) > QUERY_CHARACTERS:
            raise BadRequestError(f"q may have up to {QUERY_CHARACTERS} characters", param="q")
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise BadRequestError("cursor must be a `next_cursor` of an answer before", param="cursor")
        match = match_expression(text)
        if match is None:
            return Page((), None)
        before = None if cursor is None else int(cursor)
        work = partial(_search, owner=owner, match=match, before=before, limit=limit, pinned=pinned)
        return await self._database.read(work)


def match_expression(text: str) -> str | None:
    """What was typed as an expression of FTS5, every word quoted: nothing in it is an operator. None: no words."""
    words = re.findall(r"[^\W_]+", storable(text))[:_WORDS]
    if not words:
        return None
    # Whole words: for a beginning FTS5 gathers all words that have it before it gives the first hit, 500 ms in 100,000
    # messages.
    return " ".join(f'"{word}"' for word in words)


def _search(
    connection: sqlite3.Connection, *, owner: str, match: str, before: int | None, limit: int, pinned: bool | None
) -> Page:
    # Marks that no text can hold on purpose.
    begin, end = f"\x02{secrets.token_hex(8)}\x02", f"\x03{secrets.token_hex(8)}\x03"
    shared = {"owner": owner, "match": match, "pinned": pinned, "begin": begin, "end": end}
    shown = {**shared, "long": _SNIPPET_FROM_CHARACTERS, "tokens": _SNIPPET_TOKENS}
    matches: dict[int, list[Match]] = {}
    if before is None:
        for session, marked in connection.execute(_TITLES, {**shared, "limit": limit}):
            matches[session] = [Match(None, None, *unmarked(marked, begin, end))]

    hits = connection.execute(_MESSAGES, {**shared, "before": _LAST_ID if before is None else before, "hits": _HITS})
    looked_at, last, room = 0, 0, limit
    for id_, role, session, wanted in hits:
        new = wanted and session not in matches
        if new and not room:
            break
        looked_at, last, room = looked_at + 1, id_, room - new
        # One snippet of a session: its newest message that matches, beside its name.
        if wanted and all(match.message_id is None for match in matches.setdefault(session, [])):
            (marked,) = connection.execute(_SNIPPET, {**shown, "id": id_}).fetchone()
            matches[session].append(Match(id_, role, *unmarked(marked, begin, end)))
    else:
        last = last if looked_at == _HITS else 0
    infos = catalog.by_rows(connection, list(matches))
    found = tuple(Found(infos[session], tuple(some)) for session, some in matches.items())
    return Page(found, str(last) if last else None)


def unmarked(marked: str, begin: str, end: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text without its marks, and where they were."""
    parts = re.split(f"({re.escape(begin)}|{re.escape(end)})", marked)
    text, starts, spans = "", list[int](), list[tuple[int, int]]()
    for part in parts:
        if part == begin:
            starts.append(len(text))
        elif part == end:
            spans.append((starts.pop(), len(text)))
        else:
            text += part
    return text, tuple(spans)
