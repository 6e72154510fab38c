"""How long each model took lately: what was measured, kept from run to run in a small file, and asked for a guess.

Changed by the fleet alone. What the file holds is checked as if anybody had written it; one that cannot be used is as
none, and the next load measures anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from app.files import read_regular, replace_file
from app.fleet.eta import UNKNOWN, Pace, wait_s
from app.fleet.states import FleetState, WaiterFacts

log = logging.getLogger("airlab")

_MOST, _MOST_BYTES = 1000, 1_000_000
"""Models that are kept, and the longest file that is read."""
_MOST_S = 86_400.0
"""No guess is made of more than a day."""
_COME_BACK_S, _MOST_COME_BACK_S = 5.0, 60.0
"""What one is told whom the queue has no room for, where nothing was measured, and at most."""


class Paces:
    """How long each model of one fleet took lately."""

    def __init__(self, *, quiet_s: float, file: Path | None = None) -> None:
        """What an earlier run measured, where it was kept.

        Args:
            quiet_s: How long a model is left alone before it is evicted.
            file: Where it is kept; None to forget it at the end.
        """
        self._quiet_s, self._file = quiet_s, file
        self._paces: dict[str, Pace] = {} if file is None else read_paces(file)
        self._is_kept = True
        self._keeping: asyncio.Task[None] | None = None

    def only(self, keys: Collection[str]) -> None:
        """Forget all other models."""
        self._paces = {key: pace for key, pace in self._paces.items() if key in keys}

    def loaded(self, key: str, took_s: float) -> None:
        """A load has ended; it is kept soon."""
        self._put(key, self._paces.get(key, UNKNOWN).after_load(took_s))
        if self._file is not None and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(self._file))

    def served(self, key: str, held_s: float) -> None:
        """A request has ended; it is kept with the next load, or at the end: a file written for each would be many."""
        self._put(key, self._paces.get(key, UNKNOWN).after_request(held_s))

    def eta_s(self, fleet: FleetState, waiter: WaiterFacts, *, now_s: float) -> float | None:
        """As ``wait_s``."""
        return wait_s(fleet, waiter, self._paces, quiet_s=self._quiet_s, now_s=now_s)

    def come_back_s(self, fleet: FleetState, waiter: WaiterFacts, *, now_s: float) -> float:
        """When one whom the queue has no room for may try again: when half of those who wait now are served."""
        seconds = self.eta_s(fleet, waiter, now_s=now_s)
        return _COME_BACK_S if seconds is None else min(seconds / 2, _MOST_COME_BACK_S)

    async def close(self) -> None:
        """Keep what was not kept yet."""
        if self._keeping is not None:
            await self._keeping
        if self._file is not None and not self._is_kept:
            await self._keep(self._file)

    def _put(self, key: str, pace: Pace) -> None:
        self._paces.pop(key, None)  # the newest stand last: they are what is kept of too many
        self._paces[key] = pace
        self._is_kept = False

    async def _keep(self, file: Path) -> None:
        """Write until what is in the file is what is known: one writer, so that nothing old comes after the new."""
        try:
            while not self._is_kept:
                self._is_kept = True
                await asyncio.to_thread(keep_paces, file, dict(self._paces))
        except OSError as exc:
            log.warning("how long models took cannot be kept in %s: %s", file, exc.strerror)
        finally:
            self._keeping = None


def read_paces(file: Path) -> dict[str, Pace]:
    """What was kept, by key; nothing where the file is missing or cannot be used."""
    try:
        data, _ = read_regular(file, most_bytes=_MOST_BYTES)
        said = json.loads(data) if len(data) <= _MOST_BYTES else {}
        return {str(key): Pace(_seconds(entry["load_s"]), _seconds(entry["held_s"])) for key, entry in said.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as exc:
        log.warning("%s cannot be used, so waits are guessed anew: %s", file, exc)
        return {}


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{str(value)[:40]} is no time in seconds")
    if not value >= 0:  # NaN, too, which Python's JSON has
        raise ValueError(f"{value} s is no time that a model takes")
    return float(min(value, _MOST_S))


def keep_paces(file: Path, paces: Mapping[str, Pace]) -> None:
    """Write them. Raises OSError."""
    newest = list(paces.items())[-_MOST:]
    replace_file(file, json.dumps({key: asdict(pace) for key, pace in newest}, indent=1).encode())
