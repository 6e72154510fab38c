"""Asks a program of the system one question: a few lines of text come back in time, or the reason why none did."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

LIMIT_S = 5.0
_MOST_BYTES = 64 * 1024
_REAPED_S = 1.0
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""All that the program may know of our environment: what decides which devices it sees, and no key."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a program printed, or None and why there is nothing."""

    text: str | None
    why_not: str = ""


def ask(argv: Sequence[str], *, limit_s: float = LIMIT_S) -> Told:
    """Run it to its end and return both its outputs, mixed as they came. Blocks for ``limit_s`` and a second at most.

    Whatever goes wrong is told and never raised: it is absent, refuses, fails, hangs or does not stop talking.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"LANG": "C"},
            cwd="/",
            # A group of its own, so that whatever it starts can be ended with it.
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        return Told(None, f"could not be run: {reason}")
    try:
        return _answer(process, time.monotonic() + limit_s, limit_s)
    finally:
        _end(process)


def _answer(process: subprocess.Popen[bytes], deadline_s: float, limit_s: float) -> Told:
    output = b""
    assert process.stdout is not None  # noqa: S101 # for the type checker: it was asked for
    pipe = process.stdout.fileno()
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while len(output) <= _MOST_BYTES:
        if not waiting.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
            return Told(None, f"did not answer within {limit_s:g} s")
        piece = os.read(pipe, _MOST_BYTES)
        if not piece:
            return _ended(process, output.decode(errors="replace"), deadline_s, limit_s)
        output += piece
    return Told(None, f"printed more than {_MOST_BYTES // 1024} KiB")


def _ended(process: subprocess.Popen[bytes], text: str, deadline_s: float, limit_s: float) -> Told:
    try:
        code = process.wait(timeout=max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Told(None, f"did not end within {limit_s:g} s")
    if code == 0:
        return Told(text)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "nothing said")
    return Told(None, f"failed with exit code {code}: {printable(first)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # A driver that hangs keeps its process alive for longer than we care to wait.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_REAPED_S)
    if process.stdout is not None:
        process.stdout.close()


def printable(text: str) -> str:
    """A name or a line from elsewhere, in one line and short, without what could steer a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[:400]).split())[:200]
