"""Waiting for tasks that nobody awaits one by one."""

from __future__ import annotations

import subprocess
import sys

from tests.support.service import BOUND_S, ROOT

_AT_THE_SAME_TIME = """
import asyncio
from app.tasks import all_ended

async def nothing():
    pass

async def main():
    tasks = set()
    task = asyncio.create_task(nothing())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    # Begins in the same turn of the loop in which the task ends, so before the task's callback.
    await asyncio.create_task(all_ended(tasks))
    assert not tasks

asyncio.run(main())
"""


def test_task_that_ends_just_now_is_waited_for_until_it_has_left() -> None:
    """In a process of its own: what spins cannot be timed out from within."""
    subprocess.run([sys.executable, "-c", _AT_THE_SAME_TIME], cwd=ROOT, timeout=BOUND_S, check=True)
