"""The end of a conversation, as much of it as a turn can use, and how much stands before it.

A turn costs what its model can be shown, however long the session is. Works inside a transaction of its caller.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from app.store import tree
from app.store.db import storable
from app.store.records import NOTHING_EARLIER, Earlier, LastCut, StoredMessage

_CUTS = """
SELECT leaf, model, json_extract(detail, '$.cut') AS cut FROM turns
WHERE id IN (SELECT value FROM json_each(?)) AND cut IS NOT NULL ORDER BY leaf DESC
"""


class Tail(NamedTuple):
    """See ``OpenTurn``, which has the same."""

    path: tuple[StoredMessage, ...]
    earlier: Earlier
    cuts: tuple[LastCut, ...]


def read_tail(connection: sqlite3.Connection, leaf: int | None, *, model: str, most_tokens: int | None) -> Tail:
    """The conversation up to this message.

    Args:
        connection: In a transaction.
        leaf: Its newest message; None for none.
        model: Key of the model that will be shown it.
        most_tokens: More than that is surely of no use; None reads all of it.
    """
    if most_tokens is None:
        return Tail(tree.path_to(connection, leaf), NOTHING_EARLIER, ())
    # Twice: one budget for what the last answer was given, and one for what was said since.
    path = tree.tail_to(connection, leaf, most_tokens=2 * most_tokens)
    above = path[0].parent if path else None
    if above is None:
        return Tail(path, NOTHING_EARLIER, ())
    cuts = _cuts(connection, path)
    if not cuts:
        # Once in a conversation, or after a change of the budget: from then on the turns' own cuts tell.
        return Tail(path, Earlier(*tree.length_to(connection, above)), ())
    newest, ids = cuts[0][1], [stored.id for stored in path]
    shown_once = path[: ids.index(newest.first_kept)]
    tokens = sum(stored.count.tokens for stored in shown_once if stored.count is not None)
    earlier = Earlier(newest.messages - len(shown_once), max(0, newest.tokens - tokens))
    return Tail(path, earlier, tuple(cut for by, cut in cuts if by == storable(model)))


def _cuts(connection: sqlite3.Connection, path: Sequence[StoredMessage]) -> list[tuple[str, LastCut]]:
    """What the models of the answers on a path were not shown, newest first; the last of each model and budget."""
    ids = {stored.id for stored in path}
    turns = {stored.turn_id for stored in path if stored.message.visible and stored.message.role == "assistant"}
    found: dict[tuple[str, int], LastCut] = {}
    for leaf, by, text in connection.execute(_CUTS, (json.dumps(sorted(turns)),)):
        cut: dict[str, int] = json.loads(text)
        # A turn may have stored a client's own account, and then answered another branch of it.
        if leaf in ids and cut.keys() >= set(LastCut._fields) and cut["first_kept"] in ids:
            found.setdefault((by, cut["budget_tokens"]), LastCut(*(cut[name] for name in LastCut._fields)))
    return [(by, cut) for (by, _), cut in found.items()]
