"""How deep JSON of unknown origin may be nested: what recurses over it later has a stack that ends.

Until Python 3.11 its own limit stopped readers at about a thousand levels; since 3.12 they go on to ten thousand.
llama-server takes seconds for a schema of 9,000 levels, and dies of one of 20,000 (measured, b11434).
"""

from __future__ import annotations

from itertools import chain
from typing import Any

MOST_LEVELS = 128


def too_deep(value: Any) -> bool:
    """Whether objects and arrays lie in each other more than 128 deep. Takes time in proportion to their number."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = list(chain.from_iterable(map(_within, level)))
        if not level:
            return False
    return True


def _within(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
