"""What do 100,000 messages in 2,000 sessions cost? Listing, opening, searching and adding to them, and memory.

Pages are asked for over HTTP, so all of AirLab's own work is in them. A message and its answer are added in this
process, to the same database once the service has ended: two transactions, each waited for until it is on the disk.
Beside each stands the same on a database of one session.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from pathlib import Path

import psutil

from app.messages import Message
from app.store import tree
from app.store.db import Database
from app.store.records import SessionKey
from app.store.sessions import Sessions
from app.units import MIB
from bench.figures import Budget, Figure
from bench.load import connected, seconds_each
from bench.targets import MODEL, airlab, manifest

_SESSIONS, _MESSAGES, _WORDS = 2000, 50, 60
_MOST_MS, _MOST_GROWTH_MIB = 20, 10
_OWNER = "api-key"
_ASKED = {
    "list 50 sessions": "/sessions",
    "open a session of 50 messages": "/sessions/s0",
    "search a rare word": "/sessions?q=word2500",
    "search a word that most messages hold": "/sessions?q=the",
    "search three of those": "/sessions?q=the+of+a",
}


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds for each, with many sessions and with one; MiB that the service takes more with many."""
    rounds = 10 if quick else 50
    many_ms, many_mib, many_append = _measured(_SESSIONS, rounds)
    one_ms, one_mib, one_append = _measured(1, rounds)
    budget = Budget(_MOST_MS, "at most", "airlab")
    size = f"{_SESSIONS * _MESSAGES:,} messages"
    figures = [Figure(f"{name}, {size}", "ms", many_ms[name], one_ms[name], budget) for name in _ASKED]
    growth = Budget(_MOST_GROWTH_MIB, "at most", "difference")
    return [
        *figures,
        Figure(f"add a message and its answer, {size}", "ms", many_append, one_append, budget),
        Figure(f"resident memory after these, {size}", "MiB", [many_mib], [one_mib], growth),
    ]


def _measured(sessions: int, rounds: int) -> tuple[dict[str, list[float]], float, list[float]]:
    took: dict[str, list[float]] = {}
    with airlab(
        manifest({"bench": MODEL.name}, slots=1), database=lambda file: asyncio.run(fill(file, sessions))
    ) as lab:
        with connected(lab.target) as connection:
            for name, path in _ASKED.items():
                each = seconds_each(connection, lab.target.request(path), rounds)
                took[name] = [1000 * seconds for seconds in each]
        resident_mib = psutil.Process(lab.process.pid).memory_info().rss / MIB
        lab.end()
        appended = asyncio.run(_appended_ms(lab.database, rounds))
    return took, resident_mib, appended


async def fill(file: Path, sessions: int) -> None:
    """Make a database of so many sessions, 50 messages each; words as common as in a language."""
    draw = random.Random(8)
    words = [f"word{number}" for number in range(3000)] + ["the", "of", "a"] * 300

    def work(connection: sqlite3.Connection) -> None:
        for number in range(sessions):
            _add_session(connection, f"s{number}", [" ".join(draw.choices(words, k=_WORDS)) for _ in range(_MESSAGES)])

    database = await Database.open(file)
    try:
        await database.write(work)
    finally:
        await database.close()


def _add_session(connection: sqlite3.Connection, name: str, texts: list[str]) -> None:
    added = "INSERT INTO sessions (owner, name, title, created_ms, updated_ms) VALUES (?, ?, ?, 0, 0) RETURNING id"
    (session,) = connection.execute(added, (_OWNER, name, texts[0][:60])).fetchone()
    opened = (
        "INSERT INTO turns (session, status, model, started_ms, ended_ms) VALUES (?, 'done', 'm', 0, 0) RETURNING id"
    )
    (turn,) = connection.execute(opened, (session,)).fetchone()
    said = [Message("assistant" if at % 2 else "user", text) for at, text in enumerate(texts)]
    leaf = tree.add(connection, (session, turn), None, said, at_ms=0)[-1]
    connection.execute("UPDATE turns SET leaf = ? WHERE id = ?", (leaf, turn))
    connection.execute("UPDATE sessions SET head = ? WHERE id = ?", (leaf, session))


async def _appended_ms(file: Path, rounds: int) -> list[float]:
    database = await Database.open(file)
    sessions, key, took = Sessions(database), SessionKey(_OWNER, "s0"), []
    try:
        for number in range(rounds):
            begun_s = time.perf_counter()
            said = [Message("user", f"the question of {number}")]
            turn = await sessions.open_turn(key, said, from_root=False, model="m")
            await sessions.close_turn(turn.id, Message("assistant", f"the answer of {number}"))
            took.append(1000 * (time.perf_counter() - begun_s))
    finally:
        await database.close()
    return took
