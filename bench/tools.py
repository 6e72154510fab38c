"""What does a tool call cost beside the tool's own work? Through the gate: judged, audited, run in a worker of its own.

Once with a pause before each call, as between two rounds of a model; once back to back, where the next worker is not
always up yet. The tool reads a small file; its own work is timed in this process, without a wall.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path, PurePosixPath

from app.gate import Gate
from app.journal import Journal
from app.messages import ToolCall
from app.policy.rules import Policy, Root, confinements
from app.store.audit import Audit
from app.store.db import Database
from app.tools.base import Confinement, discover
from app.tools.builtin.read_file import read_file
from app.tools.toolbox import Toolbox
from bench.figures import Budget, Figure, NotMeasuredError

_MOST_MS = 5
_PAUSE_S = 0.05


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds of a warm call, and of the tool's own work, in turn."""
    with tempfile.TemporaryDirectory(prefix="airlab-bench-") as folder:
        root = Path(folder).resolve() / "root"
        root.mkdir()
        (root / "notes.txt").write_text("a line\n" * 20)
        return asyncio.run(_measure(root, 30 if quick else 300))


async def _measure(root: Path, calls: int) -> list[Figure]:
    journal, database = Journal(), Database(root.parent / "airlab.db")
    tools = discover()
    policy = Policy(tools, roots=(Root(PurePosixPath(root), "read"),), protected=())
    toolbox = Toolbox(journal, [spec.entry for spec in tools.values()])
    await database.connect()
    try:
        toolbox.keep(confinements(policy))
        await toolbox.ready()
        gate = Gate(lambda: policy, toolbox, Audit(database), journal)
        budget = Budget(_MOST_MS, "at most", "difference")
        return [
            Figure("tool call, warm", "ms", *await _in_turn(gate, root, calls, _PAUSE_S), budget),
            Figure("tool call, back to back", "ms", *await _in_turn(gate, root, calls, 0), budget),
        ]
    finally:
        await toolbox.close()
        await database.close()


async def _in_turn(gate: Gate, root: Path, calls: int, pause_s: float) -> tuple[list[float], list[float]]:
    path, inside = f"{root}/notes.txt", Confinement("fs_read", (PurePosixPath(root),))
    through_ms, own_ms = [], []
    for number in range(calls):
        begun_s = time.perf_counter()
        read_file(path, inside=inside)
        own_ms.append(1000 * (time.perf_counter() - begun_s))
        await asyncio.sleep(pause_s)
        begun_s = time.perf_counter()
        result = await gate.call(ToolCall(f"call_{number}", "read_file", json.dumps({"path": path})), actor="bench")
        through_ms.append(1000 * (time.perf_counter() - begun_s))
        if result.status != "ok":
            raise NotMeasuredError(f"a call failed: {result.content}")
    return through_ms, own_ms
