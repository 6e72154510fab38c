"""Notes a fact once, as a typed event; log lines, event streams and counters are readings of it.

A fact is a frozen dataclass, defined beside whoever notes it. It names what happened in the past tense (``ModelReady``)
and holds no prompt and no key. The journal informs and never decides: a slow or failing reader may miss a fact.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable
from typing import Any

log = logging.getLogger("airlab")


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
    """Something that has happened. Its class name is its name; ``level`` is that of its log line."""

    @property
    def level(self) -> int:
        """The logging level of this fact's line."""
        return logging.INFO

    @property
    def name(self) -> str:
        """``ModelReady`` reads as ``model ready``."""
        return re.sub(r"(?<!^)(?=[A-Z])", " ", type(self).__name__).lower()

    def values(self) -> dict[str, Any]:
        """The fact's fields, those that are None left out."""
        pairs = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in pairs if value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble(Fact):
    """A fact that somebody should look at."""

    @property
    def level(self) -> int:
        """Warnings stand out in the log."""
        return logging.WARNING


class Journal:
    """Takes facts, writes one log line for each, and hands them to whoever listens."""

    def __init__(self) -> None:
        """A journal without readers still writes the log."""
        self._readers: list[Callable[[Fact], None]] = []

    def note(self, fact: Fact) -> None:
        """Write the fact down: ``model ready model=qwen3-8b start_s=4.2``."""
        if log.isEnabledFor(fact.level):
            log.log(fact.level, "%s %s", fact.name, " ".join(f"{k}={_shown(v)}" for k, v in fact.values().items()))
        for reader in tuple(self._readers):
            reader(fact)

    def subscribe(self, reader: Callable[[Fact], None]) -> Callable[[], None]:
        """Call ``reader`` with each later fact; returns what ends that. ``reader`` must neither block nor raise."""
        self._readers.append(reader)
        return lambda: self._readers.remove(reader)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    # Names and messages come from elsewhere, too: none of them may steer a terminal or begin a line of the log.
    return repr(text) if re.search(r"[\s=\"']", text) or not text.isprintable() else text
