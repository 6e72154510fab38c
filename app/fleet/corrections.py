"""What models really took, against what had been estimated: kept from run to run, in a small file.

Only ever adds to an estimate: what was estimated too high once may well be needed another time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from app.files import read_regular, replace_file
from app.fleet.spec import ModelSpec

log = logging.getLogger("airlab")

_MOST, _LEAST_RATIO, _MOST_RATIO = 1000, 1.0, 2.0
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of a model, after its first request."""

    weights_bytes: int
    """Of the files that were run: other files are another model."""
    estimated_bytes: int
    """On the host, without a correction."""
    measured_bytes: int

    @property
    def ratio(self) -> float:
        """What an estimate is to be multiplied by, within reason."""
        return min(_MOST_RATIO, max(_LEAST_RATIO, self.measured_bytes / max(1, self.estimated_bytes)))


def ratios_of(known: Mapping[str, Measured], models: Mapping[str, ModelSpec]) -> dict[str, float]:
    """By what the estimates of these models are multiplied: of those whose file is still the one that was run."""
    pairs = ((key, known.get(key), spec.run) for key, spec in models.items() if spec.run.weights)
    return {key: found.ratio for key, found, run in pairs if found and found.weights_bytes == run.files_bytes}


def read_corrections(file: Path) -> dict[str, Measured]:
    """What is known, by key. A file that cannot be used is as none: the next run measures anew."""
    try:
        data, _ = read_regular(file, most_bytes=_MOST_BYTES)
        said = json.loads(data) if len(data) <= _MOST_BYTES else {}
        return {str(key): _measured(entry) for key, entry in said.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as exc:
        log.warning("%s cannot be used, so estimates are not corrected: %s", file, exc)
        return {}


def _measured(entry: Mapping[str, object]) -> Measured:
    numbers = (
        [entry[name] for name in ("weights_bytes", "estimated_bytes", "measured_bytes")] if len(entry) == 3 else []
    )
    if len(numbers) != 3 or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("an entry is not three sizes in bytes")
    return Measured(*(int(str(number)) for number in numbers))


def keep_corrections(file: Path, known: Mapping[str, Measured]) -> None:
    """Write them. Raises OSError."""
    newest = list(known.items())[-_MOST:]
    replace_file(file, json.dumps({key: asdict(each) for key, each in newest}, indent=1).encode())
