"""Draws lines as SVG: sheets of charts, in one file without a script, readable in light and dark. Pure.

Values go up from zero. What the values are over (tokens, slots) is laid out in doublings, as such numbers are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _GAP = 1000, 20
_CHART_WIDTH, _CHART_HEIGHT = 480, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 40, 46
_TITLE, _LEGEND_ROW, _LEGEND_CHARS = 40, 20, 62
_TICKS, _MOST_X_TICKS = 5, 8
# Told apart also by who sees few colours: the marks differ, too, and from the ninth on the lines are broken.
_LIGHT = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0a7d8c", "#57606a")
_DARK = ("#58a6ff", "#ff7b72", "#3fb950", "#d29922", "#bc8cff", "#f778ba", "#39c5cf", "#b1bac4")
_LOOK = """text { fill: #1f2328 } .paper { fill: #ffffff } .grid { stroke: #d8dee4 } .soft { fill: #57606a }
.sheet { font-size: 17px; font-weight: bold } .title { font-size: 13px; font-weight: bold }"""
_DARK_LOOK = "text { fill: #e6edf3 } .paper { fill: #0d1117 } .grid { stroke: #30363d } .soft { fill: #9198a1 }"


@dataclass(frozen=True, slots=True)
class Line:
    """One series."""

    name: str
    points: tuple[tuple[float, float], ...]
    """In order of x, which is above zero."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one axis."""

    title: str
    x_title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """Charts side by side that show the same series, with one legend."""

    title: str
    charts: tuple[Chart, ...]

    @property
    def names(self) -> list[str]:
        """Of all series, in their order; the place in it is the look of a series in every chart."""
        return list(dict.fromkeys(line.name for chart in self.charts for line in chart.lines))


def svg(sheets: Sequence[Sheet]) -> str:
    """The sheets, one below the other, as one SVG document."""
    parts: list[str] = []
    top = 0
    for sheet in sheets:
        parts += _sheet(sheet, top)
        top += _height(sheet)
    body, height = "\n".join(parts), max(top, _TITLE) + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12">\n<style>\n{_LOOK}\n{_colours(_LIGHT)}\n'
        f"@media (prefers-color-scheme: dark) {{\n{_DARK_LOOK}\n{_colours(_DARK)}\n}}\n</style>\n"
        f'<rect class="paper" width="100%" height="100%"/>\n{body}\n</svg>\n'
    )


def ticks(most: float) -> list[float]:
    """About five round numbers from zero to ``most`` or a little more: 1, 2 or 5 times a power of ten apart."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def doublings(least: float, most: float) -> list[int]:
    """Powers of two from ``least`` or a little less to ``most`` or a little more, eight at most."""
    first, last = math.floor(math.log2(least) + 0.1), math.ceil(math.log2(most) - 0.1)
    step = max(1, math.ceil((last - first + 1) / _MOST_X_TICKS))
    return [2**power for power in range(max(0, first), max(0, last) + 1, step)]


def _colours(palette: Sequence[str]) -> str:
    rules = (f".s{i} {{ stroke: {colour} }} .m{i} {{ fill: {colour} }}" for i, colour in enumerate(palette))
    return "\n".join(rules)


def _height(sheet: Sheet) -> int:
    rows = math.ceil(len(sheet.charts) / 2)
    return _TITLE + _LEGEND_ROW * math.ceil(len(sheet.names) / 2) + rows * (_CHART_HEIGHT + _GAP)


def _sheet(sheet: Sheet, top: int) -> Iterator[str]:
    yield _text(_GAP, top + 28, sheet.title, look="sheet")
    names = sheet.names
    for place, name in enumerate(names):
        x, y = _GAP + place % 2 * (_CHART_WIDTH + _GAP), top + _TITLE + _LEGEND_ROW * (place // 2) + 8
        yield f'<line x1="{x}" y1="{y}" x2="{x + 26}" y2="{y}" {_stroke(place)}/>'
        yield _mark(place, x + 13, y, name)
        shown = name if len(name) <= _LEGEND_CHARS else f"{name[: _LEGEND_CHARS - 1]}…"
        yield _text(x + 34, y + 4, shown)
    below = top + _TITLE + _LEGEND_ROW * math.ceil(len(names) / 2)
    for number, chart in enumerate(sheet.charts):
        left = _GAP // 2 + number % 2 * (_CHART_WIDTH + _GAP)
        yield from _chart(chart, names, left, below + number // 2 * (_CHART_HEIGHT + _GAP))


def _chart(chart: Chart, names: Sequence[str], left: int, top: int) -> Iterator[str]:
    points = [point for line in chart.lines for point in line.points]
    y_ticks = ticks(max((y for _, y in points), default=0))
    least, most = min((x for x, _ in points), default=1), max((x for x, _ in points), default=1)
    x_ticks = doublings(least, most)
    low, high = math.log2(min(least, x_ticks[0])) - 0.15, math.log2(max(most, x_ticks[-1])) + 0.15
    width, height = _CHART_WIDTH - _LEFT - _RIGHT, _CHART_HEIGHT - _TOP - _BOTTOM

    def across(x: float) -> float:
        return round(left + _LEFT + width * (math.log2(x) - low) / (high - low), 1)

    def down(y: float) -> float:
        return round(top + _TOP + height * (1 - y / y_ticks[-1]), 1)

    yield _text(left + _LEFT, top + 24, chart.title, look="title")
    yield _text(left + _LEFT + width / 2, top + _CHART_HEIGHT - 8, chart.x_title, anchor="middle", look="soft")
    for y in y_ticks:
        yield (
            f'<line class="grid" x1="{left + _LEFT}" y1="{down(y)}" x2="{left + _LEFT + width}" y2="{down(y)}"/>'
            + _text(left + _LEFT - 7, down(y) + 4, _short(y, 1000), anchor="end", look="soft")
        )
    for tick in x_ticks:
        yield _text(across(tick), top + _CHART_HEIGHT - _BOTTOM + 17, _short(tick, 1024), anchor="middle", look="soft")
    for line in chart.lines:
        place = names.index(line.name)
        joined = " ".join(f"{across(x)},{down(y)}" for x, y in line.points)
        yield f'<polyline points="{joined}" fill="none" {_stroke(place)}/>'
        for x, y in line.points:
            yield _mark(place, across(x), down(y), f"{line.name}: {y:.4g} at {x:g} {chart.x_title}")


def _stroke(place: int) -> str:
    broken = ' stroke-dasharray="6 4"' if place >= len(_LIGHT) else ""
    return f'class="s{place % len(_LIGHT)}" stroke-width="2"{broken}'


def _mark(place: int, x: float, y: float, says: str) -> str:
    shape = (
        f'<circle cx="{x:g}" cy="{y:g}" r="4"',
        f'<rect x="{x - 3.5:g}" y="{y - 3.5:g}" width="7" height="7"',
        f'<path d="M{x:g} {y - 5:g}l5 9h-10z"',
        f'<path d="M{x:g} {y - 5.5:g}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"',
    )[place % 4]
    tag = shape[1 : shape.index(" ")]
    return f'{shape} class="m{place % len(_LIGHT)}"><title>{escape(says)}</title></{tag}>'


def _short(number: float, thousand: int) -> str:
    """Print 8192 tokens as 8k, and 20000 of anything else, too."""
    return f"{number / thousand:g}k" if number >= thousand and number * 4 % thousand == 0 else f"{number:g}"


def _text(x: float, y: float, words: str, *, anchor: str = "start", look: str = "") -> str:
    kind = f' class="{look}"' if look else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'
