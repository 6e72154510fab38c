"""What pages and listings show: pure readings of the snapshot and the fleet's status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.api import walls
from app.engines.command import DEFAULT_CONTEXT
from app.fleet.memory import Share
from app.fleet.spec import ModelSpec
from app.fleet.states import State
from app.fleet.status import ModelStatus
from app.live.reload import Attempt
from app.live.snapshot import Snapshot
from app.tools.base import WorkerKind

_COPIED = (
    *("filename", "description", "recommended", "is_finetuned", "vram_estimate", "usage"),
    *("hf_repo", "download_url", "base_model", "training_data", "adapters", "mmproj"),
)
"""What /models shows of a model as the manifest has it."""
_TROUBLED = frozenset({State.FAILED, State.COOLING, State.STUCK})


def health(
    snapshot: Snapshot,
    status: Mapping[str, ModelStatus],
    last: Attempt,
    *,
    stopping: bool,
    details: bool,
    gaps: Mapping[WorkerKind, str] | None = None,
) -> dict[str, Any]:
    """The body of /health; without ``details`` its first three fields, which is what a caller without a key sees.

    ``gaps`` are the kinds of tool worker in force that the kernel does not confine, with why.
    """
    key = snapshot.chosen_model
    spec, now = snapshot.models[key], status[key]
    troubles = list(_troubles(snapshot, spec, now, last, stopping=stopping, details=details))
    unconfined = None if stopping else walls.trouble(gaps or {}, details=details)
    troubles += [unconfined] if unconfined is not None else []
    message = "; ".join(troubles) or f"{key} is {now.state}"
    body: dict[str, Any] = {"status": "degraded" if troubles else "ok", "message": message, "model_key": key}
    if details:
        body |= {
            "state": now.state,
            "device": now.fallback or spec.device,
            "loaded": now.state is State.READY,
            "generation": snapshot.generation,
            "reload_error": last.error,
        }
    return body


def _troubles(
    snapshot: Snapshot, spec: ModelSpec, now: ModelStatus, last: Attempt, *, stopping: bool, details: bool
) -> Iterator[str]:
    """What is wrong, if anything; log lines and paths only in the details."""
    if stopping:
        yield "shutting down"
        return
    if now.state in _TROUBLED:
        yield f"{spec.key} is {now.state}{f': {now.message}' if details else ''}"
    elif now.fallback is not None:
        yield f"{spec.key} runs on {now.fallback if details else 'what stands in for its container'}"
    elif spec.problem is not None and now.state is not State.READY:
        yield f"{spec.key} cannot start{f': {spec.problem}' if details else ''}"
    elif spec.run.weights is None and not spec.is_remote:
        yield f"the file of {spec.key} is missing{f': {spec.expected_file}' if details and spec.expected_file else ''}"
    if last.result == "failed":
        where = f": {last.short_error}" if details else ""
        yield f"airlab.yaml as it is now cannot be used, and what was in force before is{where}"
    if snapshot.policy.closed:
        yield "no tool runs until airlab.yaml is right"
    if snapshot.weights_problem is not None:
        yield f"models may be missing{f': {snapshot.weights_problem}' if details else ''}"


def owner_models(snapshot: Snapshot, status: Mapping[str, ModelStatus], *, include_finetuned: bool) -> dict[str, Any]:
    """The body of GET /models."""
    shown = [s for s in snapshot.models.values() if include_finetuned or not s.section.is_finetuned]
    return {
        "models": [_owner_model(spec, status[spec.key]) for spec in shown],
        "current": snapshot.chosen_model,
        **openai_models(snapshot, status),
    }


def _owner_model(spec: ModelSpec, now: ModelStatus) -> dict[str, Any]:
    section = spec.section
    return {
        "key": spec.key,
        "name": section.name or spec.key,
        "exists": spec.run.weights is not None or spec.is_remote,
        "loaded": now.state is State.READY,
        "state": now.state,
        "source": _source(spec),
        "tool_mode": spec.tool_mode,
        "modalities": spec.modalities,
        **{name: getattr(section, name) for name in _COPIED},
        "context_length": _context_tokens(spec, now),
        "draft_model": spec.draft_name,
        **_of_its_file(spec),
    }


def _of_its_file(spec: ModelSpec) -> dict[str, Any]:
    """What the header of a model's file says; null where it does not, or was not read."""
    facts = spec.facts
    return {
        "architecture": facts and facts.architecture,
        "parameters": facts and facts.parameters,
        "quantisation": facts and facts.quantisation,
        "trained_context_length": facts and facts.context_length,
        "chat_template": facts and facts.has_chat_template,
        "knows_tools": facts and facts.knows_tools,
        "problem": spec.problem,
    }


def _source(spec: ModelSpec) -> str:
    section = spec.section
    if spec.is_remote:
        return "remote"
    if spec.run.weights is not None or not (section.hf_repo or section.download_url):
        return "local_finetuned" if section.is_finetuned else "local"
    return "hf" if section.hf_repo else "url"


def openai_models(snapshot: Snapshot, status: Mapping[str, ModelStatus]) -> dict[str, Any]:
    """The body of GET /v1/models."""
    return {"object": "list", "data": [openai_model(spec, status[spec.key]) for spec in snapshot.models.values()]}


def openai_model(spec: ModelSpec, now: ModelStatus) -> dict[str, Any]:
    """One OpenAI entry; ``created`` is a whole number, which strict clients insist on."""
    weights = spec.run.weights
    return {
        "id": spec.key,
        "object": "model",
        "created": weights.modified_ns // 1_000_000_000 if weights else 0,
        "owned_by": "airlab",
        "aliases": spec.section.aliases,
        "context_length": _context_tokens(spec, now),
        "meta": {"n_ctx": _context_tokens(spec, now)},
        "status": now.state,
        "capabilities": sorted(spec.run.kinds),
        "modalities": spec.modalities,
    }


def _context_tokens(spec: ModelSpec, now: ModelStatus) -> int:
    """Of each conversation: as it runs, else as it is written, else, where that is open, what it was trained for."""
    trained = spec.facts.context_length if spec.facts else None
    return now.context_length or spec.run.context_length or trained or DEFAULT_CONTEXT


def running_models(snapshot: Snapshot, status: Mapping[str, ModelStatus], *, now_s: float) -> dict[str, Any]:
    """The body of GET /ps: every model with its state."""
    rows = [
        {
            "key": key,
            "state": now.state,
            "for_s": None if now.since_s is None else round(now_s - now.since_s, 1),
            "pid": now.pid,
            "container": now.container,
            "slots": now.slots,
            "busy": now.busy,
            "waiting": now.waiting,
            "message": now.message,
            "memory_bytes": now.measured_bytes,
        }
        for key, now in status.items()
    ]
    return {"models": rows, "current": snapshot.chosen_model}


def memory(shares: Iterable[Share]) -> list[dict[str, Any]]:
    """Of every device what models may have together, and what those that run were promised of it."""
    return [
        {"device": share.device, "limit_bytes": share.limit_bytes, "promised_bytes": share.promised_bytes}
        for share in shares
    ]
