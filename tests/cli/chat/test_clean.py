"""What a model writes must not steer the terminal of whoever reads it."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from app.cli.chat.clean import Cleaner, clean, one_line
from app.cli.chat.markdown import markdown

HOSTILE = {
    "colour": ("a\x1b[31mb", "ab"),
    "clear": ("a\x1b[2J\x1b[Hb", "ab"),
    "title": ("a\x1b]0;owned\x07b", "ab"),
    "clipboard": ("a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"),
    "link": ("\x1b]8;;http://evil\x1b\\bank\x1b]8;;\x1b\\", "bank"),
    "one byte": ("a\x9b31mb\x9d0;t\x9cc", "abc"),
    "answerback": ("a\x05\x1bZb", "ab"),
    "cut off": ("a\x1b]0;title", "a]0;title"),
    "carriage return": ("rm -rf /\rls     ", "rm -rf /ls     "),
    "backspace": ("evil\b\b\b\bgood", "evilgood"),
    "right to left": ("a\u202egpj.exe\u2066", "agpj.exe"),
    "hidden": ("a\U000e0041b", "ab"),
    "half a character": ("a\ud800b", "a\ufffdb"),
}


@pytest.mark.parametrize(("text", "harmless"), HOSTILE.values(), ids=HOSTILE)
def test_control_sequences_are_taken_out(text: str, harmless: str) -> None:
    assert clean(text) == harmless


def test_lines_tabs_and_all_that_is_read_stay() -> None:
    text = "Grüße,\n\tЖюль, 你好, 👩\u200d👩\u200d👧, مرحبا"

    assert clean(text) == text


@given(st.text(st.characters() | st.sampled_from("\x1b[]PX^_\x07\x9b\x9d;?0m\\"), max_size=60))
def test_nothing_that_controls_is_left_of_any_text(text: str) -> None:
    kept = clean(text)

    assert not [char for char in kept if unicodedata.category(char) in {"Cc", "Cs"} and char not in "\n\t"]
    assert clean(kept) == kept
    kept.encode()


@given(st.lists(st.text(st.sampled_from("\x1b[]0;m\x07\x9bab\n\\"), max_size=6), max_size=8))
def test_nothing_that_controls_is_left_of_pieces_either(pieces: list[str]) -> None:
    """A sequence that comes in several tokens is one all the same."""
    cleaner = Cleaner()
    shown = "".join([*map(cleaner.feed, pieces), cleaner.rest()])

    assert not [char for char in shown if char in "\x1b\x9b\x07"]


def test_sequence_in_several_tokens_is_taken_out_and_text_is_not_held_for_long() -> None:
    cleaner = Cleaner()
    assert [cleaner.feed(piece) for piece in ["a\x1b", "[3", "1mb", "\x1b]0;ti", "tle\x07c"]] == ["a", "", "b", "", "c"]
    cleaner.feed("\x1b]")
    assert cleaner.feed("x" * 300) + cleaner.rest() == "]" + "x" * 300


@given(st.text(st.characters() | st.sampled_from("\x1b[]()<>&#;`*\n\x07\x9b"), max_size=60))
def test_markdown_prints_no_control_sequence_of_the_models(text: str) -> None:
    """Entities and links could bring back what was taken out of the text."""
    assert "\x1b" not in printed(text)
    assert "\x9b" not in printed(text)


@pytest.mark.parametrize(
    "text", ["&#27;[31mred", "&#x1b;]0;t&#7;", "&#155;31m", "[bank](http://evil 'x')", "![a](http://evil)", "&#8238;x"]
)
def test_characters_spelled_as_entities_steer_nothing(text: str) -> None:
    shown = printed(text)

    assert not [char for char in shown if char in "\x1b\x9b\x07\u202e"]


def test_address_behind_a_link_is_shown() -> None:
    assert "http://evil" in printed("[bank](http://evil)")


def test_markup_of_the_terminal_library_is_only_text() -> None:
    assert "[bold]x[/bold]" in printed("[bold]x[/bold]")


def test_one_line_is_one_line_and_short() -> None:
    assert one_line("a\n b\t c") == "a b c"
    assert one_line("word " * 100, 20) == "word word word word…"


def printed(text: str) -> str:
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=False, no_color=True).print(markdown(text))
    return out.getvalue()
