"""Quantities are read as people write them, and nothing is guessed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import units


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0B", 0),
        ("512 MiB", 512 * 1024**2),
        ("15GiB", 15 * 1024**3),
        ("1.5gib", 3 * 1024**3 // 2),
        ("2GB", 2_000_000_000),
        (" 1 KB ", 1000),
        ("1TiB", 1024**4),
    ],
)
def test_sizes_are_read_as_bytes(text: str, count: int) -> None:
    assert units.parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("15m", 900), ("1.5h", 5400), ("1d", 86400), ("2 h", 7200)]
)
def test_durations_are_read_as_seconds(text: str, seconds: float) -> None:
    assert units.parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "count"), [("8192", 8192), ("8k", 8192), ("8K", 8192), ("1.5k", 1536), ("128 k", 131072)]
)
def test_token_counts_are_read(text: str, count: int) -> None:
    assert units.parse_tokens(text) == count


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GiB", "1,5GiB", "1e9B", "15", "15 G", "inf", "nan", "0x10B", "\u0661GiB"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="GiB"):
        units.parse_bytes(text)


@pytest.mark.parametrize("text", ["", "15", "15 min", "15M", "-1s", "1:30"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A bare number has no unit, and M might be a month."""
    with pytest.raises(ValueError, match=r"15m|ms, s, m, h or d"):
        units.parse_duration_s(text)


@pytest.mark.parametrize("text", ["", "8m", "0.3k", "1.5", "-8k", "eight"])
def test_what_is_no_token_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="8192 or 8k"):
        units.parse_tokens(text)


@given(st.text())
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    for parse in (units.parse_bytes, units.parse_duration_s, units.parse_tokens):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_610_612_736, "1.5 GiB"),
        (5 * 1024**4, "5.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_sizes_are_printed(count: int, text: str) -> None:
    assert units.format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.25, "250 ms"),
        (4.2, "4.2 s"),
        (60, "1 m"),
        (930, "15 m 30 s"),
        (3599.6, "1 h"),
        (7260, "2 h 1 m"),
        (90000, "25 h"),
    ],
)
def test_durations_are_printed(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text
