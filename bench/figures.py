"""What a question is answered with: values of both targets, how they compare, and what the budget says of it. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class NotMeasuredError(Exception):
    """A figure could not be taken; the text says what stood in the way."""


class Spread(NamedTuple):
    """Several values of one thing."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Median, least and greatest of one or more values."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit; ``figure`` says which of a figure's columns it speaks of."""

    limit: float
    kind: Literal["at most", "at least"]
    figure: Literal["airlab", "difference", "ratio"]

    def holds(self, value: float) -> bool:
        """True when a value keeps the limit."""
        return value <= self.limit if self.kind == "at most" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One answer: the values of both targets in the order of the rounds, the first of each from the same round."""

    name: str
    unit: str
    airlab: list[float]
    direct: list[float]
    """Empty where there is nothing to compare with."""
    budget: Budget

    @property
    def compared(self) -> Spread | None:
        """Difference or ratio round by round, as the budget has it; a ratio where it looks at AirLab alone."""
        pairs = zip(self.airlab, self.direct, strict=bool(self.direct))
        if self.budget.figure == "difference":
            values = [airlab - direct for airlab, direct in pairs]
        else:
            values = [airlab / direct for airlab, direct in pairs]
        return spread(values) if values else None

    @property
    def judged(self) -> float:
        """The number that the budget speaks of, a median."""
        if self.budget.figure == "airlab" or self.compared is None:
            return spread(self.airlab).median
        return self.compared.median

    @property
    def within(self) -> bool:
        """True when the budget holds."""
        return self.budget.holds(self.judged)

    def as_json(self) -> dict[str, Any]:
        """Everything, for the file of results."""
        return {
            "name": self.name,
            "unit": self.unit,
            "airlab": self.airlab,
            "direct": self.direct,
            "judged": self.judged,
            "judged_is": self.budget.figure,
            "budget": f"{self.budget.kind} {self.budget.limit:g}",
            "within": self.within,
        }
