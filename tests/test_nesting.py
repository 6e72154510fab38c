"""How deep hostile JSON may be nested."""

from __future__ import annotations

from typing import Any

import pytest

from app.nesting import MOST_LEVELS, too_deep


def nested(levels: int) -> Any:
    """Objects and arrays by turns, so many in each other."""
    value: Any = 1
    for level in range(levels):
        value = {"a": value, "b": 2} if level % 2 else [value, 2]
    return value


@pytest.mark.parametrize(("levels", "is_too_deep"), [(0, False), (MOST_LEVELS, False), (MOST_LEVELS + 1, True)])
def test_nesting_has_its_end_at_a_level_and_not_before(levels: int, is_too_deep: bool) -> None:
    assert too_deep(nested(levels)) is is_too_deep


def test_many_beside_each_other_are_not_deep() -> None:
    assert not too_deep([{"a": [number]} for number in range(10_000)])


def test_nesting_far_beyond_the_bound_needs_no_stack() -> None:
    assert too_deep(nested(100_000))
