"""How often a question is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator


def rounds(count: int, *, within_s: float) -> Iterator[int]:
    """So many rounds, fewer where they take long: after ``within_s`` no new one begins, but the first always does."""
    end_s = time.monotonic() + within_s
    for number in range(count):
        if number and time.monotonic() > end_s:
            return
        yield number
