"""Fifty reloads under eight streaming clients; ``make soak-reload`` makes a thousand, and looks at the clock."""

from __future__ import annotations

from tests.soak.reload import soak


def test_reloads_lose_no_request_restart_no_model_and_leak_nothing() -> None:
    report = soak(50, more_models=20, control=False)
    assert list(report.troubles()) == []
    assert report.reloading.answers > 0
    assert report.reloading.probes
