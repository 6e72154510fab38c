"""The plot is well-formed whatever is drawn, and its axes have round numbers."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from app.cli.plot import Chart, Line, svg, ticks

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (10, [0, 2, 4, 6, 8, 10]),
        (2048, [0, 500, 1000, 1500, 2000, 2500]),
        (0.3, [0, 0.1, 0.2, 0.3]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, [0, 1]),
    ],
)
def test_ticks_are_round_and_reach_the_largest(most: float, expected: list[float]) -> None:
    assert ticks(most) == pytest.approx(expected)


def test_every_line_is_drawn_and_named() -> None:
    lines = (Line("1: a Q4_K_M", ((128, 50), (512, 40))), Line("<b> & co", ((128, 0),)))
    drawn = ET.fromstring(svg([Chart("Speed", "tokens", lines), Chart("Empty", "tokens", ())]))

    assert len(drawn.findall(f"{SVG}polyline")) == 2
    assert len(drawn.findall(f"{SVG}circle")) == 3
    words = [text.text for text in drawn.findall(f"{SVG}text")]
    assert {"Speed", "Empty", "1: a Q4_K_M", "<b> & co"} <= set(words)


def test_larger_is_higher_and_further_right() -> None:
    drawn = ET.fromstring(svg([Chart("Speed", "tokens", (Line("a", ((1, 1), (2, 3))),))]))
    first, second = drawn.findall(f"{SVG}circle")
    assert float(first.attrib["cx"]) < float(second.attrib["cx"])
    assert float(first.attrib["cy"]) > float(second.attrib["cy"])
