"""What the service and the launcher say to each other: one JSON object a line, over a unix socket. Pure.

No image, no command, no mount and no environment is among it: the launcher takes those from the manifest, which it
reads itself. What was decided for a start crosses as bounded numbers, and as names of GPUs that the manifest has, too.
Whatever is not written here is refused.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from app.engines.base import Exit, Fit
from app.engines.command import CACHE_RAM_MIB
from app.errors import (
    EngineAwayError,
    EngineError,
    GpuUnavailableError,
    ImageMissingError,
    LauncherRefusedError,
)
from app.manifest.engine_sections import GpuId
from app.manifest.schema import ContextLength, ModelKey, Parallel, Threads
from app.manifest.values import GpuLayers

LINE_BYTES = 64 * 1024
"""Longest line; an answer's log lines are cut to fit."""
HEARTBEAT_S, LEASE_S = 5.0, 30.0
"""The service is heard every HEARTBEAT_S; after LEASE_S without a word, all that was started for it is removed."""
_LOG_BYTES = 8 * 1024

Instance = Annotated[str, Field(pattern=r"^[0-9]{1,12}-[A-Za-z0-9-]{1,24}$")]
"""The service's name for what it starts; it is a folder's and a container's name, too."""


class Ask(BaseModel):
    """Any request: no more fields than it has, none of them bent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Annotated[int, Field(ge=1, le=2**53)]
    """Comes back with the answer."""


class AskStart(Ask):
    """Start this model as it was made to fit, if all the rest is what ``digest`` says."""

    op: Literal["start"] = "start"
    key: ModelKey
    instance: Instance
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    gpu_layers: GpuLayers | None
    context_length: ContextLength
    slots: Parallel
    threads: Threads
    cache_ram_mib: Annotated[int, Field(ge=0, le=CACHE_RAM_MIB)]
    node: Annotated[int, Field(ge=0, le=1023)] | None
    gpus: Annotated[tuple[GpuId, ...], Field(max_length=16)]
    """As the manifest calls them; empty for all that it gives."""
    gpu_shares: Annotated[tuple[Annotated[int, Field(ge=1, le=2**31)], ...], Field(max_length=16)]
    is_booked: bool
    """Whether its memory was looked at: then llama-server is to change none of these numbers."""

    @model_validator(mode="after")
    def _shares_are_for_gpus(self) -> AskStart:
        if len(set(self.gpus)) < len(self.gpus):
            raise ValueError("names a GPU twice")
        if len(self.gpu_shares) != (len(self.gpus) if len(self.gpus) > 1 else 0):
            raise ValueError("has not one share for each of several GPUs")
        return self

    @property
    def fit(self) -> Fit:
        """What was decided for it."""
        return Fit(
            *(self.context_length, self.slots, self.gpu_layers, self.threads),
            cache_ram_mib=self.cache_ram_mib,
            gpu_ids=self.gpus,
            gpu_shares=self.gpu_shares,
            node=self.node,
        )


def numbers_of(fit: Fit) -> dict[str, Any]:
    """What was decided for a start, for the wire."""
    return {
        "gpu_layers": fit.gpu_layers,
        "context_length": fit.context_length,
        "slots": fit.slots,
        "threads": fit.threads,
        "cache_ram_mib": fit.cache_ram_mib,
        "node": fit.node,
        "gpus": fit.gpu_ids,
        "gpu_shares": fit.gpu_shares,
    }


class AskStop(Ask):
    """End it and remove it."""

    op: Literal["stop"] = "stop"
    instance: Instance
    grace_s: Annotated[float, Field(ge=0, le=60)]


class AskOf(Ask):
    """wait: answered when it has ended. look: what it does, and its last lines."""

    op: Literal["wait", "look"]
    instance: Instance


class AskPlain(Ask):
    """beat: the service lives. sweep: remove all that was started. gpus: what ``nvidia-smi`` says in a container."""

    op: Literal["beat", "sweep", "gpus"]


AnyAsk = Annotated[AskStart | AskStop | AskOf | AskPlain, Field(discriminator="op")]
_ANY: TypeAdapter[AskStart | AskStop | AskOf | AskPlain] = TypeAdapter(AnyAsk)


def read_ask(line: bytes) -> AskStart | AskStop | AskOf | AskPlain:
    """A request. Raises LauncherRefusedError for whatever is none."""
    try:
        return _ANY.validate_json(line, strict=True)
    except ValidationError as exc:
        problems = [f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in exc.errors()[:5]]
        raise LauncherRefusedError(
            f"this is no request that this launcher knows: {'; '.join(problems)}. AirLab and its launcher must be of "
            "one version: bring both up to date, and start the launcher anew"
        ) from exc


def id_of(line: bytes) -> int:
    """The id of what may be a request, so that a refusal finds its way back; 0 where it has none."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return 0
    number = told.get("id") if isinstance(told, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else 0


_ERRORS: dict[str, type[EngineError]] = {
    "away": EngineAwayError,
    "gpu": GpuUnavailableError,
    "image": ImageMissingError,
    "refused": LauncherRefusedError,
    "engine": EngineError,
}


def error_line(number: int, error: EngineError) -> bytes:
    """An answer that says no."""
    kind = next(name for name, each in _ERRORS.items() if isinstance(error, each))
    return line_of({"id": number, "error": error.message[:4000], "kind": kind})


def raise_error(answer: dict[str, Any]) -> None:
    """Raise what an answer says went wrong, as it was raised there."""
    if "error" in answer:
        raise _ERRORS.get(str(answer.get("kind")), EngineError)(str(answer["error"]))


def line_of(told: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def cut_lines(lines: tuple[str, ...]) -> list[str]:
    """The last of these lines, 8 KiB of them."""
    kept: list[str] = []
    room = _LOG_BYTES
    for line in reversed(lines):
        room -= len(line.encode()) + 8
        if room < 0:
            break
        kept.append(line)
    return kept[::-1]


def exit_told(end: Exit) -> dict[str, Any]:
    """An end, for the wire."""
    return {"code": end.code, "last_lines": cut_lines(end.last_lines), "out_of_memory": end.out_of_memory}


def exit_of(told: dict[str, Any]) -> Exit:
    """An end, off the wire."""
    return Exit(int(told["code"]), tuple(map(str, told["last_lines"])), bool(told["out_of_memory"]))
