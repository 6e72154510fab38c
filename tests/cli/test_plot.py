"""The plot is well-formed whatever is drawn, and its axes have round numbers."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from app.cli.plot import Chart, Line, Sheet, doublings, svg, ticks

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


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (126, 2050, [128, 256, 512, 1024, 2048]),
        (1, 1, [1]),
        (1, 4, [1, 2, 4]),
        (512, 1_048_576, [512, 2048, 8192, 32768, 131072, 524288]),
    ],
)
def test_tokens_and_slots_are_laid_out_in_doublings(least: float, most: float, expected: list[int]) -> None:
    assert doublings(least, most) == expected


def drawn(*charts: Chart) -> ET.Element:
    return ET.fromstring(svg([Sheet("Sheet", charts)]))


def test_every_line_is_drawn_and_named_once_for_all_charts_of_a_sheet() -> None:
    lines = (Line("1: a Q4_K_M", ((128, 50), (512, 40))), Line("<b> & co", ((128, 0),)))
    root = drawn(Chart("Speed", "tokens", lines), Chart("Memory", "tokens", lines), Chart("Empty", "tokens", ()))

    assert len(root.findall(f"{SVG}polyline")) == 4
    words = [text.text for text in root.findall(f"{SVG}text")]
    assert {"Sheet", "Speed", "Memory", "Empty"} <= set(words)
    assert [words.count(line.name) for line in lines] == [1, 1]


def test_larger_is_higher_and_further_right() -> None:
    root = drawn(Chart("Speed", "tokens", (Line("a", ((1, 1), (2, 3))),)))
    _legend, first, second = root.findall(f"{SVG}circle")
    assert float(first.attrib["cx"]) < float(second.attrib["cx"])
    assert float(first.attrib["cy"]) > float(second.attrib["cy"])


def test_long_name_is_cut_in_the_legend_and_whole_where_one_points_at_it() -> None:
    root = drawn(Chart("Speed", "tokens", (Line("x" * 200, ((1, 1),)),)))
    assert any((text.text or "").endswith("x…") for text in root.findall(f"{SVG}text"))
    assert root.findall(f".//{SVG}title")[0].text == "x" * 200
