"""Events by their names on the wire, and those of an AirLab that is newer or older."""

from __future__ import annotations

import dataclasses

import msgspec

from app.chat import events as told
from app.client import events as heard
from app.client.events import Other, Token, TurnDone, read_event


def test_every_event_that_the_server_tells_is_heard_with_all_its_fields() -> None:
    """A field that the server adds, and the client's own record has not, would be lost without a word."""
    for kind in told.TurnEvent.__subclasses__():
        known = heard._KINDS[kind.event]
        names = {field.name for field in msgspec.structs.fields(kind)}

        assert names <= {field.name for field in dataclasses.fields(known)}, kind.event


def test_unknown_event_and_unknown_field_do_no_harm() -> None:
    assert read_event("colour", {"red": 1}) == Other("colour", {"red": 1})
    assert read_event("token", {"text": "Sea", "colour": "red"}) == Token("Sea")


def test_event_without_a_field_that_it_needs_is_not_made_up() -> None:
    assert read_event("token", {}) == Other("token", {})


def test_counts_may_be_left_out() -> None:
    done = {"session_id": "s", "model": "m", "device": "CPU", "finish_reason": "stop"}

    assert read_event("done", done) == TurnDone("s", "m", "CPU", "stop")
