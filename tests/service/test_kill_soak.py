"""Five kills in the middle of 200 turns each; ``make soak-kill`` makes fifty."""

from __future__ import annotations

from tests.soak.kill import soak


def test_five_kills_among_200_turns_lose_nothing_keep_no_half_turn_and_double_none() -> None:
    report = soak(5)

    assert report.failures == []
    assert report.answers > 400
    assert report.interrupted > 50, "too few kills met an open turn to say anything"
