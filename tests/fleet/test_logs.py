"""What is new between two looks at an engine's last lines."""

from __future__ import annotations

import pytest

from app.fleet.logs import LogLines, news


def look(*lines: str, instance: int = 1) -> LogLines:
    return LogLines(instance, is_running=True, lines=lines)


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        (("a", "b"), ("a", "b"), ()),
        (("a", "b"), ("a", "b", "c"), ("c",)),
        ((), ("a",), ("a",)),
        (("a", "b", "c"), ("c", "d", "e"), ("d", "e")),
        (("a", "b", "c"), ("d", "e", "f"), ("d", "e", "f")),
        (("a", "a"), ("a", "a", "a"), ("a",)),
    ],
)
def test_only_what_came_since_is_news(before: tuple[str, ...], now: tuple[str, ...], new: tuple[str, ...]) -> None:
    """Old lines are pushed out at the front while new ones come at the end."""
    assert news(look(*before), look(*now)) == new


def test_another_engine_is_news_from_its_first_line() -> None:
    assert news(look("a"), look("a", "b", instance=2)) == ("a", "b")
