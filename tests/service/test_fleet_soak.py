"""Ten seconds of every fault at random, more on a slow machine; ``make soak-fleet`` takes a minute, or as told."""

from __future__ import annotations

from tests.soak.fleet import FAULTY, soak


def test_faults_mixed_under_load_leave_nobody_without_an_answer_and_nothing_behind() -> None:
    report = soak(10, seed=7, least=21)

    assert report.troubles == []
    assert report.answers["200"] > 20
    assert report.answers.keys() & FAULTY, "no fault was met"
