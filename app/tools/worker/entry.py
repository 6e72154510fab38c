"""A worker: a process that the zygote forked, which confines itself, does one call and ends.

Descriptor 0 is its channel; lines of JSON go over it: ``{"ready": true}``, one request, one answer. Nothing here
decides whether a call may be made, and nothing outlives it, so that a call which went wrong cannot colour the next
one's answer.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any, get_args

from app.tools.base import ANSWER_BYTES, Confinement, Tool, ToolProblem, WorkerKind
from app.tools.worker import fs, lockdown, seccomp
from app.tools.worker.grants import Ground
from app.tools.worker.kernel import Unfit

_REQUEST_BYTES = 8 * 1024**2
_PIECE_BYTES = 64 * 1024
_TRACE_CHARACTERS = 2000


def warm_up() -> None:
    """In the zygote: learn what is the same for every worker."""
    _why_unfit_for_files()
    with suppress(Unfit):  # each worker meets it again, and says so
        for kind in get_args(WorkerKind):
            seccomp.filter_for(kind)


def serve_one(confinement: Confinement, tools: Mapping[str, Tool[..., object]], *, degraded: bool) -> None:
    """Be made ready, take one request, answer it."""
    try:
        ground = _confined(confinement, degraded=degraded)
    except Unfit as unfit:
        _send(_line({"ready": False, "why": str(unfit)}))
        return
    _send(_line({"ready": True}))
    request = _receive()
    if request is None:
        return  # the service let go of a worker that it did not need
    if ground.has_moved():
        # Nothing ran yet; the next worker looks again at what is there.
        _send(_line({"stale": True}))
        return
    lockdown.limit_call(request["limit_s"])
    inside = replace(confinement, may_destroy=request["may_destroy"])
    _send(_answer(tools[request["entry"]], request["arguments"], inside))


def _confined(confinement: Confinement, *, degraded: bool) -> Ground:
    unfit = _why_unfit_for_files() if confinement.kind in {"fs_read", "fs_write"} else None
    if unfit is not None:
        raise Unfit(unfit)
    try:
        return lockdown.lock_down(confinement, degraded=degraded)
    except Exception as exc:
        # Whatever it was: without its wall nothing runs here, and somebody has to read why.
        raise Unfit(str(exc) if isinstance(exc, Unfit) else f"the wall failed: {type(exc).__name__}: {exc}") from exc


@cache
def _why_unfit_for_files() -> str | None:
    return fs.why_unfit()


def _answer(tool: Tool[..., object], arguments: dict[str, Any], inside: Confinement) -> bytes:
    try:
        return _line({"result": tool.run(arguments, inside)})
    except ToolProblem as problem:
        return _line({"code": problem.code, "error": problem.message})
    except MemoryError:
        text = "The tool needed more memory than it may have. Ask for less."
        return _line({"code": "out_of_memory", "error": text})
    except Exception as exc:  # noqa: BLE001 # whatever a tool's code does, the model gets an answer
        text = f"The tool failed: {type(exc).__name__}: {exc}"[:500]
        trace = traceback.format_exc()[-_TRACE_CHARACTERS:]
        return _line({"code": "tool_failed", "error": text, "trace": trace})


def _line(message: dict[str, Any]) -> bytes:
    line = json.dumps(message, ensure_ascii=False, allow_nan=False).encode(errors="replace")
    if len(line) <= ANSWER_BYTES:
        return line + b"\n"
    return _line({"code": "too_large", "error": "The answer is too large. Ask for less at a time."})


def _receive() -> Any:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, _PIECE_BYTES)
        if not piece or len(line) > _REQUEST_BYTES:
            return None
        line += piece
    return json.loads(line)


def _send(line: bytes) -> None:
    with open(0, "wb", closefd=False) as channel:  # a descriptor, not a path
        channel.write(line)
