"""Server-sent events out of bytes, wherever these are cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.client.stream import read_events
from app.errors import ServerAwayError

STREAM = b': still here\n\nevent: token\ndata: {"text": "Sea"}\n\nevent: done\r\ndata: {"n": 1}\r\n\r\n'
EVENTS = [("token", {"text": "Sea"}), ("done", {"n": 1})]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(places)]

    assert list(read_events(pieces)) == EVENTS


@pytest.mark.parametrize("text", ["a\u2028b", "a\u2029b", "a\x85b", "a\x1cb", "a\x0cb"], ids=ascii)
def test_characters_that_python_takes_for_line_ends_stay_in_the_text(text: str) -> None:
    """A model may write them, and JSON lets most of them stand as they are."""
    data = json.dumps({"text": text}, ensure_ascii=False).encode()

    assert list(read_events([b"event: token\ndata: " + data + b"\n\n"])) == [("token", {"text": text})]


def test_event_that_was_cut_off_is_none() -> None:
    assert list(read_events([b'event: token\ndata: {"text": "Sea"}\n'])) == []


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b"[" * 100_000], ids=["html", "list", "nested"])
def test_what_is_no_object_is_said_to_be_no_airlab(data: bytes) -> None:
    with pytest.raises(ServerAwayError, match="no JSON"):
        list(read_events([b"data: " + data + b"\n\n"]))
