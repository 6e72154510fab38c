"""An answer that grows: what is split off never has to be drawn again, and what is left fits on the screen."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from app.cli.chat.markdown import Tail, split_settled

PARTS = st.sampled_from(["word", "\n", "\n\n", "```", "```py\n", "~~~~\n", "- item\n", "    code\n", "# head\n", "`"])


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("one line", ""),
        ("one\n\ntwo", "one\n\n"),
        ("one\n\ntwo\n\n", "one\n\ntwo\n\n"),
        ("```\na\n\nb", ""),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```\n\n"),
        ("~~~\n```\n\n", ""),
        ("````\n```\n\n````\n\n", "````\n```\n\n````\n\n"),
        ("one\n\n```\n\n", "one\n\n"),
    ],
    ids=ascii,
)
def test_text_is_split_at_empty_lines_outside_of_fences(text: str, settled: str) -> None:
    assert split_settled(text) == (settled, text.removeprefix(settled))


@given(st.lists(PARTS, max_size=30))
def test_splitting_loses_nothing_and_what_is_settled_stays_so(parts: list[str]) -> None:
    text = ""
    before = ""
    for part in parts:
        text += part
        settled, rest = split_settled(text)
        assert settled + rest == text
        assert settled.startswith(before)
        before = settled


def test_tail_shows_the_end_in_the_lines_that_there_are() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=10, force_terminal=False)
    console.print(Tail("\n".join(f"- line {number}" for number in range(50))), end="")

    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert lines == [f"• line {number}" for number in range(43, 50)]
