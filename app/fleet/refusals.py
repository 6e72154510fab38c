"""Why a model is not started, in words that say what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.errors import (
    AirLabError,
    ModelCoolingError,
    ModelFailedError,
    UnavailableError,
    WeightsBrokenError,
    WeightsMissingError,
)
from app.fleet.fit import Shortfall
from app.fleet.spec import ModelSpec
from app.fleet.states import Limits, Record


def cannot_start(spec: ModelSpec, home: Path = Path()) -> WeightsBrokenError | WeightsMissingError | None:
    """Why nothing need be tried with its files as they are; None where they can be started, by all that is known."""
    if spec.problem is not None:
        return WeightsBrokenError(f"the files of {spec.key} cannot be used: {spec.problem}")
    return missing_weights(spec, home) if spec.run.weights is None and not spec.is_remote else None


def missing_weights(spec: ModelSpec, home: Path = Path()) -> WeightsMissingError:
    """The sentence for a model that is declared and not on disk; ``home`` is the manifest's folder."""
    section = spec.section
    if source := section.hf_repo or section.download_url:
        return WeightsMissingError(
            f"{spec.key} is in the manifest, but not on disk: `airlab models pull {spec.key}` downloads {source}, and "
            "so does a switch to it"
        )
    path = home / (spec.expected_file or "models")
    return WeightsMissingError(f"{spec.key} is in the manifest, but its file is not on disk: put it at {path}")


def still_down(key: str, record: Record, limits: Limits, *, now_s: float) -> AirLabError | None:
    """Why a start must not be tried now, if so: it failed, or cools down for longer than is worth waiting."""
    failure = record.failure
    if failure is not None and not (failure.can_pass and now_s >= failure.at_s + limits.failed_rest_s):
        return ModelFailedError(f"{key} does not start: {failure.message}")
    rest_s = (record.cooling_until_s or now_s) - now_s
    if rest_s > limits.cooling_worth_waiting_s:
        message = f"{key} failed and is given a pause of {rest_s:.0f} s: {record.last_fault}"
        return ModelCoolingError(message, retry_after_s=rest_s)
    return None


def not_beside(key: str, rivals: Sequence[str], short: Shortfall | None) -> UnavailableError:
    """It cannot be loaded without taking something away from somebody, which this waiter is not to do.

    Args:
        key: The model.
        rivals: Models that are there, and may not run with it.
        short: What memory lacks, where that is it.
    """
    because = f"it may not run with {', '.join(rivals)}" if rivals else "every place is taken"
    because = short.message if short is not None else because
    return UnavailableError(f"{key} cannot be loaded beside what is loaded: {because}", retry_after_s=5)


def nobody_can_go(key: str, stuck: Sequence[str], pinned: Sequence[str], *, is_rival: bool) -> UnavailableError:
    """No place can be made for this model.

    Args:
        key: The model.
        stuck: Models whose engine cannot be stopped.
        pinned: Models that stay.
        is_rival: Whether it is not their place, but that it may not run with them.
    """
    reasons = [f"the engine of {', '.join(stuck)} cannot be stopped"] if stuck else []
    if pinned:
        reasons.append(f"{', '.join(pinned)} {'is' if len(pinned) == 1 else 'are'} pinned")
    because = f", and {key} may not run with it" if is_rival else ""
    return UnavailableError(f"no place for {key}: {' and '.join(reasons)}{because}", retry_after_s=5)
