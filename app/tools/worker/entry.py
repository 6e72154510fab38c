"""A worker: a process of its own that confines itself, does one call and ends.

Run as ``python -I -S -B entry.py FD`` with an empty environment; FD is its end of a socket pair. Lines of JSON go over
it: what to be, ``{"ready": true}``, one request, one answer. Nothing here decides whether a call may be made, and
nothing outlives it, so that a call which went wrong cannot colour the next one's answer.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

# -I and -S leave only the standard library on the path; AirLab comes last, so that no file beside it hides a module.
sys.path.append(__file__.rsplit("/", 4)[0])

from app.tools.base import ANSWER_BYTES, Confinement, ToolProblem, load
from app.tools.worker import fs, lockdown

_REQUEST_BYTES = 1024**2


def main() -> None:
    """Be made ready, take one request, answer it."""
    # The channel takes the place of standard input: 0, 1 and 2 are all that is open.
    channel = int(sys.argv[1])
    os.dup2(channel, 0)
    os.close(channel)
    setup = _receive()
    confinement = Confinement.from_json(setup["confinement"])
    tools = {entry: load(entry) for entry in setup["entries"]}
    unfit = fs.why_unfit() if confinement.kind == "fs_read" else None
    if unfit is not None:
        _send({"ready": False, "why": unfit})
        return
    lockdown.lock_down(confinement)
    _send({"ready": True})
    request = _receive()
    _send(_answer(tools[request["entry"]].run, request["arguments"], confinement))


def _answer(run: Any, arguments: dict[str, Any], confinement: Confinement) -> dict[str, Any]:
    try:
        return {"result": run(arguments, confinement)}
    except ToolProblem as problem:
        return {"code": problem.code, "error": problem.message}
    except MemoryError:
        return {"code": "out_of_memory", "error": "The tool needed more memory than it may have. Ask for less."}
    except Exception as exc:  # noqa: BLE001 # whatever a tool's code does, the model gets an answer
        traceback.print_exc()
        return {"code": "tool_failed", "error": f"The tool failed: {type(exc).__name__}: {exc}"[:500]}


def _receive() -> Any:
    line = sys.stdin.buffer.readline(_REQUEST_BYTES)
    if not line:
        sys.exit()  # the service let go of a worker that it did not need
    return json.loads(line)


def _send(message: dict[str, Any]) -> None:
    line = json.dumps(message, ensure_ascii=False).encode(errors="replace")
    if len(line) > ANSWER_BYTES:
        line = json.dumps({"code": "too_large", "error": "The answer is too large. Ask for less at a time."}).encode()
    with open(0, "wb", closefd=False) as channel:  # a descriptor, not a path
        channel.write(line + b"\n")


main()
