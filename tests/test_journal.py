"""The journal's log lines: one for each fact, whatever stands in it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from app.journal import Fact, Journal


@dataclass(frozen=True, slots=True)
class SomethingHappened(Fact):
    """A fact with words from elsewhere."""

    what: str


@pytest.mark.parametrize("text", ["a\x1b[2J", "\x9b31m", "a\nb", "a\u202eb", "a\u2028b", "\x00"])
def test_words_from_elsewhere_steer_no_terminal_and_begin_no_line(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Other servers name models and say what is wrong with them, and that goes into the log."""
    caplog.set_level(logging.INFO, logger="airlab")
    Journal().note(SomethingHappened(text))

    [record] = caplog.records
    assert record.getMessage() == f"something happened what={text!r}"
    assert record.getMessage().isprintable()
