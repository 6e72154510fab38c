"""Figures as a table for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import Figure, Spread, spread

_HEADINGS = ("figure", "direct", "AirLab", "compared (min to max)", "budget", "")


def table(figures: Sequence[Figure]) -> str:
    """One line for each figure below a line of headings."""
    rows = [_HEADINGS, *(_row(figure) for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _row(figure: Figure) -> tuple[str, ...]:
    budget = figure.budget
    unit = "" if budget.figure == "ratio" else f" {figure.unit}"
    return (
        f"{figure.name} [{figure.unit}]",
        number(spread(figure.direct).median) if figure.direct else "-",
        _span(spread(figure.airlab)) if budget.figure == "airlab" else number(spread(figure.airlab).median),
        _compared(figure),
        f"{budget.kind} {budget.limit:,.4g}{unit}",
        "within" if figure.within else "OVER" if budget.kind == "at most" else "UNDER",
    )


def _compared(figure: Figure) -> str:
    if figure.compared is None:
        return "-"
    return _span(figure.compared, sign="+") if figure.budget.figure == "difference" else f"x {_span(figure.compared)}"


def _span(values: Spread, *, sign: str = "") -> str:
    median, low, high = (number(value, sign=sign) for value in values)
    return f"{median} ({low} to {high})"


def number(value: float, *, sign: str = "") -> str:
    """Three or four figures that mean something: 0.213, 9.41, 165, 6,430."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    return f"{value:{sign},.{digits}f}"
