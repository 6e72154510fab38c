"""Runs the ``command`` tools that the manifest declares: one program, no shell, as the kernel's wall lets it.

Runs in a worker of kind ``command``, which can start programs of the system and sees files below the roots; before the
program starts, the worker gives up starting any but those that the manifest names.
"""

from __future__ import annotations

import os
import selectors
import subprocess
from collections.abc import Mapping
from typing import Any

from app.tools.base import Confinement, ToolProblem, runner
from app.tools.worker import lockdown, templates

_ERROR_BYTES = 2048
_PIECE_BYTES = 65536
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}


@runner
def run_command(
    arguments: Mapping[str, Any], settings: Mapping[str, Any], secrets: Mapping[str, str], *, inside: Confinement
) -> dict[str, Any]:
    """Run a program as the manifest says, with a model's arguments filled in."""
    del secrets  # a program has none of AirLab's environment
    values = {**settings["defaults"], **arguments}
    argv = templates.fill_argv(settings["argv"], values, free=settings["options"])
    folder = next(iter((*inside.write, *inside.read)), "/")
    if settings["changes"]:  # one that the call leaves out is nothing that may be changed
        lockdown.only_change(str(values[name]) for name in settings["changes"] if name in values)
    lockdown.only_run(settings["programs"])
    try:
        program = subprocess.Popen(  # a list, no shell, behind the wall
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd=folder,
        )
    except OSError as exc:
        raise ToolProblem("not_started", f"{argv[0]} cannot be started: {exc.strerror}. Tell the user.") from exc
    output, error, whole = _listen(program, settings["max_answer"])
    result: dict[str, Any] = {"output": output.decode(errors="replace")}
    # One that says too much goes with its worker, whose group it is in: it may be killed from here by nobody alone.
    result |= {"exit_code": program.wait()} if whole else {"truncated": True}
    said = error.decode(errors="replace")
    return result | ({"error_output": said} if said else {})


def _listen(program: subprocess.Popen[bytes], most_bytes: int) -> tuple[bytes, bytes, bool]:
    """What the program writes, the end of what it writes to its standard error, and whether that is all of it."""
    assert program.stdout is not None  # noqa: S101 # both are pipes; for the type checker
    assert program.stderr is not None  # noqa: S101
    output, error = program.stdout.fileno(), program.stderr.fileno()
    said = {output: b"", error: b""}
    with selectors.DefaultSelector() as waiting:
        for pipe in said:
            waiting.register(pipe, selectors.EVENT_READ)
        while waiting.get_map():
            for key, _ in waiting.select():
                piece = os.read(key.fd, _PIECE_BYTES)
                said[key.fd] += piece
                if not piece:
                    waiting.unregister(key.fd)
            said[error] = said[error][-_ERROR_BYTES:]
            if len(said[output]) > most_bytes:
                return said[output][:most_bytes], said[error], False
    return said[output], said[error], True
