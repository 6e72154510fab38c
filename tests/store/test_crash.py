"""What is left when AirLab is killed at any moment."""

from __future__ import annotations

import itertools
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from app.store.db import Database
from app.store.records import SessionKey, SessionView, StoredMessage
from app.store.sessions import Sessions
from app.store.tree import path_to, require_whole_rounds

ROOT = Path(__file__).resolve().parents[2]
KILLS = 25
LIMIT_S = 60
# The first three turns take about 4,500 steps of SQLite's machine.
STEPS_OF_A_FEW_TURNS = 4500
MARKS_OF_A_FEW_TURNS = 9


async def test_fault_115_killed_at_25_moments_loses_nothing_acknowledged_and_keeps_no_half_turn(tmp_path: Path) -> None:
    """An answer that the client was given is there tomorrow, and half an answer is never shown as a whole one."""
    path = tmp_path / "airlab.db"
    moments = random.Random(115)
    acknowledged: set[int] = set()
    interrupted = 0
    for kill in range(KILLS):
        key = SessionKey("use", f"crash {kill}")
        # From within, in the middle of a statement; or from without, whatever it is at by then.
        steps = moments.randrange(1, STEPS_OF_A_FEW_TURNS) if kill % 2 else None
        acknowledged |= _answered_until_killed(path, key, steps, marks=moments.randrange(MARKS_OF_A_FEW_TURNS))

        database = await Database.open(path)
        try:
            interrupted += await Sessions(database).interrupt_open_turns()
            view = await Sessions(database).view(key)
            answers = await database.read(_answer_paths)
        finally:
            await database.close()
        assert acknowledged <= answers.keys()
        _check_answers(answers)
        _check_view(view, answers)

    assert acknowledged
    assert interrupted > KILLS // 5, "too few kills met an open turn to say anything"


def _answered_until_killed(path: Path, key: SessionKey, steps: int | None, *, marks: int) -> set[int]:
    """Let a child talk until it has killed itself, or we did after so many marks: the turns it said were answered."""
    command = [sys.executable, "-m", "tests.store.crash_child", str(path), key.name, str(steps or 0)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = iter(child.stdout)
        try:
            assert next(lines, None) == "talking\n"
            told: list[str] = []
            if steps is None:
                told += itertools.islice(lines, marks)
                child.kill()
            told += lines
            assert child.wait(LIMIT_S) == -signal.SIGKILL
        finally:
            child.kill()
    return {int(line.split()[1]) for line in told if line.startswith("answered")}


def _answer_paths(connection: sqlite3.Connection) -> dict[int, tuple[StoredMessage, ...]]:
    """The whole path of each turn that is done, by the turn's id."""
    done = connection.execute("SELECT id, leaf FROM turns WHERE status = 'done'").fetchall()
    return {turn_id: path_to(connection, leaf) for turn_id, leaf in done}


def _check_answers(answers: dict[int, tuple[StoredMessage, ...]]) -> None:
    """Every turn that is done has all its messages and its own answer."""
    for turn_id, path in answers.items():
        own = [stored.message for stored in path][-4:]
        assert [message.role for message in own] == ["user", "assistant", "tool", "assistant"]
        require_whole_rounds(own[1:3])
        assert own[-1].content == f"answer of turn {turn_id}"


def _check_view(view: SessionView | None, answers: dict[int, tuple[StoredMessage, ...]]) -> None:
    """A page shows the answered turns as the conversation, and no turn as open."""
    if view is None:
        return
    assert {turn.status for turn in view.turns} <= {"done", "interrupted"}
    done = [turn.id for turn in view.turns if turn.status == "done"]
    assert view.branch == (answers[done[-1]] if done else ())
