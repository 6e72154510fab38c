"""What engines wrote last: while they run, and after their end. Pure, but for remembering."""

from __future__ import annotations

from dataclasses import dataclass

from app.fleet.instance import Instance


@dataclass(frozen=True, slots=True)
class LogLines:
    """The end of an engine's log, as it wrote it: nobody has cleaned it."""

    instance: int | None
    """Its number since AirLab's start; None where none was ever started."""
    is_running: bool
    lines: tuple[str, ...]
    """At most 200."""


class LastWords:
    """The last lines of engines that are gone, one for each model."""

    def __init__(self) -> None:
        """Nobody has gone yet."""
        self._kept: dict[str, LogLines] = {}

    def keep(self, instance: Instance) -> None:
        """An engine is gone. One that never came to run has nothing to say, and leaves its predecessor's words."""
        if instance.running is not None:
            lines = instance.running.last_lines()
            self._kept[instance.spec.key] = LogLines(instance.id, is_running=False, lines=lines)

    def of(self, key: str, instances: list[Instance]) -> LogLines:
        """Of the model's newest engine that runs, else of the last one that did."""
        for instance in reversed(instances):
            if instance.running is not None:
                return LogLines(instance.id, is_running=True, lines=instance.running.last_lines())
        return self._kept.get(key, LogLines(None, is_running=False, lines=()))


def news(before: LogLines, now: LogLines) -> tuple[str, ...]:
    """The lines that came between two looks; all of them where another engine writes now.

    Only so many lines are kept: what was written and pushed out between two looks is not among them.
    """
    if now.instance != before.instance:
        return now.lines
    if now.lines == before.lines:
        return ()
    old, new = before.lines, now.lines
    # The longest end of what was seen that what is there begins with.
    for length in range(min(len(old), len(new)), 0, -1):
        if old[-length:] == new[:length]:
            return new[length:]
    return new
