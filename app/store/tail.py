"""The end of a conversation, as much of it as a turn can use, and how much stands before it.

A turn costs what its model can be shown, however long the session is. Works inside a transaction of its caller.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from app.store import tree
from app.store.records import NOTHING_EARLIER, Earlier, LastCut, StoredMessage


class Tail(NamedTuple):
    """See ``OpenTurn``, which has the same."""

    path: tuple[StoredMessage, ...]
    earlier: Earlier
    last_cut: LastCut | None


def read_tail(connection: sqlite3.Connection, leaf: int | None, *, most_tokens: int | None) -> Tail:
    """The conversation up to this message.

    Args:
        connection: In a transaction.
        leaf: Its newest message; None for none.
        most_tokens: More than that is surely of no use; None reads all of it.
    """
    if most_tokens is None:
        return Tail(tree.path_to(connection, leaf), NOTHING_EARLIER, None)
    # Twice: one budget for what the last answer was given, and one for what was said since.
    path = tree.tail_to(connection, leaf, most_tokens=2 * most_tokens)
    above = path[0].parent if path else None
    if above is None:
        return Tail(path, NOTHING_EARLIER, None)
    cut, ids = _cut_of_last_answer(connection, path), [stored.id for stored in path]
    if cut is None or cut.first_kept not in ids:
        # Once in a conversation, or after a change of the budget: from then on the turns' own cuts tell.
        return Tail(path, Earlier(*tree.length_to(connection, above)), None)
    shown_once = path[: ids.index(cut.first_kept)]
    tokens = sum(stored.count.tokens for stored in shown_once if stored.count is not None)
    return Tail(path, Earlier(cut.messages - len(shown_once), max(0, cut.tokens - tokens)), cut)


def _cut_of_last_answer(connection: sqlite3.Connection, path: Sequence[StoredMessage]) -> LastCut | None:
    answers = (stored for stored in reversed(path) if stored.message.visible and stored.message.role == "assistant")
    answer = next(answers, None)
    if answer is None:
        return None
    (detail,) = connection.execute("SELECT detail FROM turns WHERE id = ?", (answer.turn_id,)).fetchone()
    cut: dict[str, Any] | None = json.loads(detail or "{}").get("cut")
    if cut is None or not cut.keys() >= set(LastCut._fields):
        return None
    return LastCut(*(cut[name] for name in LastCut._fields))
