"""What the kernel enforces, in words and figures: never better than it is."""

from __future__ import annotations

import pytest

from app.api.walls import Enforced, in_words, samples, trouble

HOLDS: Enforced = {"fs_read": None, "fs_write": None, "net": None, "command": None}
GAP: Enforced = {**HOLDS, "fs_write": "Landlock ABI 3 (it has 1)"}


def test_words_name_the_walls_that_hold_and_those_that_do_not() -> None:
    assert "round fs_read, fs_write, net, command workers" in in_words(HOLDS)
    assert "not for" not in in_words(HOLDS)
    assert "round fs_read, net, command workers; not for fs_write (Landlock ABI 3 (it has 1))" in in_words(GAP)
    assert "round no workers" in in_words(dict.fromkeys(HOLDS, "no Landlock here"))


def test_figures_are_one_for_a_wall_that_holds_and_zero_for_one_that_does_not() -> None:
    assert samples(GAP) == [
        ('{class="fs_read"}', 1),
        ('{class="fs_write"}', 0),
        ('{class="net"}', 1),
        ('{class="command"}', 1),
    ]


@pytest.mark.parametrize("details", [True, False])
def test_nothing_missing_is_no_trouble(*, details: bool) -> None:
    assert trouble({}, details=details) is None


def test_trouble_is_told_in_full_only_to_those_who_have_a_key() -> None:
    told = trouble({"net": "no seccomp here", "fs_read": "no Landlock here"}, details=True)

    assert told == (
        "net tools cannot be confined here: no seccomp here; fs_read tools cannot be confined here: no Landlock here"
    )
    assert "Landlock" not in str(trouble({"fs_read": "no Landlock here"}, details=False))
