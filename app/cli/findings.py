"""What ``airlab doctor`` finds, and how it looks: everything at the same time, in bounded time, without raising."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from app.errors import AirLabError

T = TypeVar("T")

Verdict = Literal["ok", "warning", "problem", "not applicable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    name: str
    verdict: Verdict
    """problem: AirLab, or a model, does not start like this. warning: something works less well, or less safely."""
    found: str
    to_fix: str | None = None


def look(checks: Mapping[str, Callable[[], Finding]], *, limit_s: float) -> Iterator[Finding]:
    """What each check finds, in their order; a check that fails, or is not over in time, is a finding, too."""
    for name, result in zip(checks, in_time(list(checks.values()), limit_s=limit_s), strict=True):
        if isinstance(result, Finding):
            yield result
        else:
            yield Finding(name, "warning", f"could not be looked at: {words_of(result)}")


def words_of(trouble: Exception) -> str:
    """What went wrong with a look."""
    if isinstance(trouble, AirLabError):
        return trouble.message
    return f"{type(trouble).__name__}{f': {trouble}' if str(trouble) else ''}"


def in_time(works: Sequence[Callable[[], T]], *, limit_s: float) -> list[T | Exception]:
    """Do all of it at the same time: what each gave or raised, TimeoutError for what is not over after ``limit_s``.

    Whatever then still hangs, such as a look at a dead network folder, is left behind and keeps nobody from ending.
    """
    results: list[T | Exception] = [TimeoutError(f"no answer within {limit_s:g} s") for _ in works]
    begun: list[threading.Event] = []

    def do(index: int, work: Callable[[], T]) -> None:
        try:
            results[index] = work()
        except Exception as exc:  # noqa: BLE001 # whatever it is, the caller tells it
            results[index] = exc
        begun[index].set()

    ends_s = time.monotonic() + limit_s
    try:
        for pair in enumerate(works):
            begun.append(threading.Event())
            threading.Thread(target=do, args=pair, daemon=True).start()
        _await(begun, ends_s)
    except KeyboardInterrupt:
        # Each may have started a program, and only it can end that one; asked a second time, we go without.
        _await(begun, ends_s)
        raise
    return list(results)


def _await(events: Sequence[threading.Event], ends_s: float) -> None:
    for event in events:
        event.wait(max(0.0, ends_s - time.monotonic()))
