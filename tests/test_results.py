"""Results that are given again: as long as the tool says, under the same rules, and never of what changes things."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.policy.rules import Policy
from app.results import Results
from app.tools.base import discover

TOOLS = discover()
POLICY = Policy(TOOLS)
LOOKUP = replace(TOOLS["lookup_hostname"], cache_s=60.0)
AT = {"hostname": "example.org"}


@dataclass
class Clock:
    """Time as the test has it."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_result_is_given_again_until_its_time_is_over() -> None:
    clock = Clock()
    results = Results(now_s=clock)
    assert results.get(POLICY, LOOKUP, AT) is None
    results.put(POLICY, LOOKUP, AT, "found")

    clock.now_s += 59.9
    assert results.get(POLICY, LOOKUP, AT) == "found"
    assert results.get(POLICY, LOOKUP, {"hostname": "example.com"}) is None
    assert results.get(POLICY, replace(LOOKUP, name="other"), AT) is None
    clock.now_s += 0.2
    assert results.get(POLICY, LOOKUP, AT) is None


def test_reload_forgets_everything() -> None:
    """What was kept may have come from another tool of that name, or from where nobody may look any more."""
    results = Results()
    results.put(POLICY, LOOKUP, AT, "found")

    assert results.get(replace(POLICY), LOOKUP, AT) is None
    assert results.get(POLICY, LOOKUP, AT) is None


def test_tool_that_says_nothing_is_asked_every_time() -> None:
    results = Results()
    results.put(POLICY, TOOLS["read_file"], AT, "found")

    assert results.get(POLICY, TOOLS["read_file"], AT) is None


@pytest.mark.parametrize("risk", ["write", "destructive", "command"])
def test_what_changes_things_is_never_kept_whatever_it_says(risk: Any) -> None:
    spec = replace(LOOKUP, risk=risk, paths=("hostname",), changes=("hostname",))
    results = Results()
    results.put(POLICY, spec, AT, "done")

    assert results.get(POLICY, spec, AT) is None


def test_program_that_only_reads_may_be_spared() -> None:
    """The kernel lets it change nothing, so running it once more would only take time."""
    spec = replace(LOOKUP, risk="command")
    results = Results()
    results.put(POLICY, spec, AT, "12 MiB")

    assert results.get(POLICY, spec, AT) == "12 MiB"


def test_no_more_is_kept_than_there_is_room_for() -> None:
    results = Results(most_bytes=2500)
    for number in range(3):
        results.put(POLICY, LOOKUP, {"hostname": str(number)}, "x" * 1000)
    kept = [results.get(POLICY, LOOKUP, {"hostname": str(number)}) is not None for number in range(3)]
    assert kept == [False, True, True]

    results.put(POLICY, LOOKUP, {"hostname": "1"}, "y" * 1000)
    assert results.get(POLICY, LOOKUP, {"hostname": "2"}), "the same key takes no second place"
    results.put(POLICY, LOOKUP, AT, "x" * 5000)
    assert results.get(POLICY, LOOKUP, AT) is None
