"""Looks run at the same time, and neither a hanging nor a failing one keeps the others from being told."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from app.cli.findings import Finding, in_time, look
from app.devices.ask import ask
from app.errors import SettingsError
from tests.support.service import BOUND_S


def test_look_that_hangs_is_told_and_left_behind() -> None:
    release = threading.Event()

    def hang() -> Finding:
        release.wait()
        return Finding("hangs", "ok", "at last")

    try:
        found = list(look({"hangs": hang, "works": lambda: Finding("works", "ok", "well")}, limit_s=1))
    finally:
        release.set()

    assert [(each.name, each.verdict) for each in found] == [("hangs", "warning"), ("works", "ok")]
    assert found[0].found == "could not be looked at: TimeoutError: no answer within 1 s"


def test_look_that_fails_is_told_with_its_reason() -> None:
    def fail() -> Finding:
        raise ZeroDivisionError

    def refuse() -> Finding:
        raise SettingsError("no such thing")

    found = list(look({"fails": fail, "refuses": refuse}, limit_s=BOUND_S))

    assert [each.found for each in found] == [
        "could not be looked at: ZeroDivisionError",
        "could not be looked at: no such thing",
    ]


def test_works_run_at_the_same_time_and_answer_in_their_order() -> None:
    """Each waits for the other: one after the other, neither would end."""
    both = threading.Barrier(2)

    def first() -> str:
        both.wait(BOUND_S)
        return "first"

    def second() -> str:
        both.wait(BOUND_S)
        return "second"

    assert in_time([first, second], limit_s=2 * BOUND_S) == ["first", "second"]


def test_interrupt_leaves_no_program_behind() -> None:
    """Ctrl-C is not for the programs that a look has started: whoever started them must see their end."""
    ended = []

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ended.append(ask(["/bin/sleep", "0.3"]).text)

    with pytest.raises(KeyboardInterrupt):
        in_time([interrupted], limit_s=BOUND_S)

    assert ended == [""]
