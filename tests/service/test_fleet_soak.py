"""Ten seconds of every fault at random; ``make soak-fleet`` takes a minute, or as long as it is told."""

from __future__ import annotations

from tests.soak.fleet import soak


def test_faults_mixed_under_load_leave_nobody_without_an_answer_and_nothing_behind() -> None:
    report = soak(10, seed=7)

    assert report.troubles == []
    assert report.answers["200"] > 20
    assert report.answers.keys() & {"502", "503", "chat error"}, "no fault was met"
