"""Talks to a store until it is killed, printing each step once it is stored. Started by test_crash.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from itertools import count
from pathlib import Path

from app.messages import Message, ToolCall
from app.store.audit import Audit, Intent
from app.store.db import Database
from app.store.records import SessionKey
from app.store.sessions import Sessions


async def talk(path: Path, key: SessionKey, steps: int) -> None:
    """Turn after turn; after so many steps of SQLite's machine this process kills itself (0: never)."""
    database = await Database.open(path)
    sessions, audit = Sessions(database), Audit(database)
    if steps:
        await database.read(lambda connection: kill_after(connection, steps))
    print("talking", flush=True)
    for number in count():
        turn = await sessions.open_turn(key, [Message("user", f"question {number}")], from_root=False, model="smol")
        print("opened", turn.id, flush=True)
        call = ToolCall(f"call-{number}", "get_current_time", "{}")
        audit_id = await audit.intend(Intent("use", key.name, turn.id, call.name, call.arguments, "allow", "read"))
        await audit.record(audit_id, status="ok", duration_s=0, result_bytes=2)
        result = Message("tool", "{}" * 3000, tool_call_id=call.id)
        await sessions.append(turn.id, [Message("assistant", "", tool_calls=(call,)), result])
        print("appended", turn.id, flush=True)
        await sessions.close_turn(turn.id, Message("assistant", f"answer of turn {turn.id}"))
        print("answered", turn.id, flush=True)


def kill_after(connection: sqlite3.Connection, steps: int) -> None:
    """SIGKILL from inside a statement: no moment between two of them reaches as deep."""
    ticks = count(1)

    def tick() -> int:
        if next(ticks) == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    connection.set_progress_handler(tick, 1)


if __name__ == "__main__":
    asyncio.run(talk(Path(sys.argv[1]), SessionKey("use", sys.argv[2]), int(sys.argv[3])))
