"""What the fleet notes in the journal."""

from __future__ import annotations

from dataclasses import dataclass

from app.journal import Fact, Trouble


@dataclass(frozen=True, slots=True)
class ModelStarting(Fact):
    """A llama-server was asked for."""

    model: str
    instance: int


@dataclass(frozen=True, slots=True)
class MemoryIsTight(Trouble):
    """It fits, with little to spare."""

    model: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelDoesNotFit(Trouble):
    """It was to be kept loaded without anybody asking, and never can be."""

    model: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelReady(Fact):
    """It serves."""

    model: str
    instance: int
    start_s: float
    pid: int | None
    container: str | None


@dataclass(frozen=True, slots=True)
class DraftModelUnused(Trouble):
    """It serves, without the draft model that the manifest names; its log says why."""

    model: str
    instance: int


@dataclass(frozen=True, slots=True)
class ModelLeaving(Fact):
    """It takes no more work."""

    model: str
    instance: int
    why: str


@dataclass(frozen=True, slots=True)
class ModelStopped(Fact):
    """Its process is verified gone."""

    model: str
    instance: int
    why: str


@dataclass(frozen=True, slots=True)
class ModelBroke(Trouble):
    """It ended by itself, never came up, or hung."""

    model: str
    instance: int
    message: str


@dataclass(frozen=True, slots=True)
class ModelStuck(Trouble):
    """It survived SIGKILL; its memory stays booked, and stopping is tried again."""

    model: str
    instance: int
    pid: int | None
    container: str | None
