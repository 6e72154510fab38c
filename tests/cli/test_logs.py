"""The words of an engine on a terminal: they are shown, and steer nothing."""

from __future__ import annotations

from app.cli.logs import events, shown


def test_control_characters_never_reach_the_terminal() -> None:
    """A model's file can put any text into the log."""
    (line,) = shown([("line", {"line": "\x1b]0;owned\x07red\x1b[31m\r\n\u202e"})])
    assert line.isprintable()
    assert "red" in line


def test_another_engine_and_an_end_are_announced() -> None:
    told = [
        ("engine", {"instance": None, "running": False}),
        ("engine", {"instance": 1, "running": True}),
        ("line", {"line": "one"}),
        ("engine", {"instance": 1, "running": False}),
        ("engine", {"instance": 2, "running": True}),
        ("line", {"line": "two"}),
    ]
    assert list(shown(told)) == ["one", "--- the engine ended", "--- another engine (number 2)", "two"]


def test_events_are_read_and_pings_passed_over() -> None:
    lines = ["event: line", 'data: {"line": "a"}', "", ": still here", "", "event: engine", 'data: {"instance": 2}', ""]
    assert list(events(lines)) == [("line", {"line": "a"}), ("engine", {"instance": 2})]
