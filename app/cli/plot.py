"""Draws lines as SVG: charts with both axes from zero, one below the other, in one file without a script. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 220, 36, 40
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#57606a", "#0a7d8c")
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One series."""

    name: str
    points: tuple[tuple[float, float], ...]
    """In order of x."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one axis, each axis from zero."""

    title: str
    x_title: str
    lines: tuple[Line, ...]


def svg(charts: Sequence[Chart]) -> str:
    """The charts, one below the other, as one SVG document."""
    body = "\n".join(_chart(chart, top=number * _HEIGHT) for number, chart in enumerate(charts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT * len(charts)}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def ticks(most: float) -> list[float]:
    """About five round numbers from zero to ``most`` or a little more: 1, 2 or 5 times a power of ten apart."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def _chart(chart: Chart, *, top: int) -> str:
    x_ticks = ticks(max((x for line in chart.lines for x, _ in line.points), default=0))
    y_ticks = ticks(max((y for line in chart.lines for _, y in line.points), default=0))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + width * x / x_ticks[-1], 1), round(top + _TOP + height * (1 - y / y_ticks[-1]), 1)

    parts = [_text(_LEFT, top + 20, chart.title, weight="bold")]
    parts.append(_text(_LEFT + width / 2, top + _HEIGHT - 6, chart.x_title, anchor="middle"))
    for y in y_ticks:
        (left, at), (right, _) = place(0, y), place(x_ticks[-1], y)
        parts.append(f'<line x1="{left}" y1="{at}" x2="{right}" y2="{at}" stroke="#d0d7de"/>')
        parts.append(_text(left - 6, at + 4, f"{y:g}", anchor="end"))
    for x in x_ticks:
        left, at = place(x, 0)
        parts.append(_text(left, at + 16, f"{x:g}", anchor="middle"))
    for number, line in enumerate(chart.lines):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [place(x, y) for x, y in line.points]
        joined = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        legend = top + _TOP + 8 + 18 * number
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 12}" y="{legend - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(_WIDTH - _RIGHT + 28, legend, line.name))
    return "\n".join(parts)


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
