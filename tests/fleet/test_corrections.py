"""What models took is kept from run to run, corrects upwards only, and a spoilt file is as none."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.fleet.corrections import Measured, keep_corrections, ratios_of, read_corrections
from tests.fakes import model_spec


def test_what_was_kept_is_read(tmp_path: Path) -> None:
    known = {"a": Measured(1000, 500, 600), "b": Measured(1, 2, 3)}
    keep_corrections(tmp_path / "memory.json", known)
    assert read_corrections(tmp_path / "memory.json") == known


@pytest.mark.parametrize(("measured", "ratio"), [(600, 1.2), (400, 1.0), (90_000, 2.0)])
def test_estimate_is_corrected_upwards_within_reason(measured: int, ratio: float) -> None:
    """One run that needed less says nothing of the next one, and one that is far off says that something else is."""
    assert Measured(1000, 500, measured).ratio == ratio


def test_another_file_is_another_model() -> None:
    models = {"a": model_spec("a")}  # its file has 1000 bytes
    assert ratios_of({"a": Measured(1000, 500, 600)}, models) == {"a": 1.2}
    assert ratios_of({"a": Measured(1001, 500, 600)}, models) == {}


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    assert read_corrections(tmp_path / "memory.json") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "nonsense",
        '{"a": 1}',
        '{"a": {}}',
        "[" * 100_000,
        '{"a": {"weights_bytes": 1, "estimated_bytes": 1, "measured_bytes": -1}}',
    ],
)
def test_file_that_cannot_be_used_is_as_none_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "memory.json").write_text(text)
    assert read_corrections(tmp_path / "memory.json") == {}
    assert "estimates are not corrected" in caplog.text
