"""How fast a model answers, seen from a client: prompts of several lengths, one and several at once.

Every prompt begins with words that no prompt before had, so that no engine can answer it from its cache.
"""

from __future__ import annotations

import json
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from app.cli.remote import read
from app.errors import AirLabError

_WORD = " word"
"""One token in all tokenizers that are common."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured of each model."""

    prompts: tuple[int, ...]
    """Lengths in tokens, about."""
    at_once: tuple[int, ...] | None
    """Requests side by side; None: one, two, four, as far as there are slots, and as many as there are slots."""
    answer_tokens: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One model with prompts of one length, so many at once; the middle of all requests."""

    model: str
    quantisation: str | None
    prompt_tokens: int
    """As the engine counted them."""
    at_once: int
    requests: int
    ttft_s: float
    """From the request to the first word."""
    prompt_per_s: float
    """Tokens of the prompt until then, for one request."""
    generate_per_s: float
    """Tokens of the answer after that, for one request."""
    total_per_s: float
    """Tokens of all answers, while all requests ran."""
    load_s: float | None
    """None where the model was loaded already."""
    memory_bytes: int | None
    """Resident memory of the engine afterwards; None where it runs elsewhere."""
    context_length: int | None = None
    """Of each conversation, as it ran; None in figures from before this was kept."""
    slots: int | None = None
    """Conversations that it served at once; None as for the context."""


@dataclass(frozen=True, slots=True)
class _Timing:
    ttft_s: float
    spoke_s: float
    prompt_tokens: int
    answer_tokens: int


def measure(client: httpx.Client, entry: dict[str, Any], plan: Plan, say: Callable[[str], None]) -> Iterator[Measured]:
    """Measure one model, loading it first.

    Args:
        client: Of an AirLab.
        entry: The model's, in GET /models.
        plan: What to ask.
        say: Told what is left out, and why.

    Raises:
        AirLabError: It does not load, or an answer failed.
    """
    key = entry["key"]
    was_loaded = _row(client, key)["state"] == "ready"  # now: another one of the bench may have sent it away
    load_s = float(read(client.post(f"/models/{key}/load"))["load_time"])
    _ask(client, key, 16, plan.answer_tokens)  # the first request of an engine pays for what the others find warm
    context, slots = _context_tokens(client, key), int(_row(client, key)["slots"])
    for at_once in plan.at_once or sorted({1, slots, *(few for few in (2, 4) if few < slots)}):
        if at_once > slots:
            say(f"{key} serves {slots} at once (parallel), so {at_once} are not measured")
            continue
        for prompt_tokens in plan.prompts:
            if prompt_tokens + plan.answer_tokens + 64 > context:
                say(f"{key} has a context of {context}, so prompts of {prompt_tokens} are not measured")
                continue
            timings, took_s = _ask_at_once(client, key, prompt_tokens, at_once, plan)
            yield Measured(
                key,
                entry["quantisation"],
                round(statistics.median(timing.prompt_tokens for timing in timings)),
                at_once,
                len(timings),
                round(statistics.median(timing.ttft_s for timing in timings), 4),
                round(statistics.median(timing.prompt_tokens / timing.ttft_s for timing in timings), 1),
                round(statistics.median(map(_rate, timings)), 2),
                round(sum(timing.answer_tokens for timing in timings) / took_s, 2),
                None if was_loaded else load_s,
                _memory_bytes(_row(client, key)),
                context,
                slots,
            )


def _ask_at_once(
    client: httpx.Client, key: str, prompt_tokens: int, at_once: int, plan: Plan
) -> tuple[list[_Timing], float]:
    """So many requests side by side, each several times; with the seconds that all of it took."""

    def one(_: int) -> list[_Timing]:
        return [_ask(client, key, prompt_tokens, plan.answer_tokens) for _ in range(plan.repeat)]

    begun_s = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        timings = [timing for timings in pool.map(one, range(at_once)) for timing in timings]
    return timings, time.monotonic() - begun_s


def _ask(client: httpx.Client, key: str, prompt_tokens: int, answer_tokens: int) -> _Timing:
    body = {
        "model": key,
        "prompt": f"{secrets.token_hex(8)}{_WORD * max(1, prompt_tokens - 12)}",
        "max_tokens": answer_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    begun_s, first_s, last_s, usage = time.monotonic(), None, 0.0, None
    with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.is_error:
            raise AirLabError(json.loads(answer.read())["error"]["message"])
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise AirLabError(event["error"]["message"])
            if any(choice.get("text") for choice in event.get("choices") or ()):
                last_s = time.monotonic()
                first_s = first_s or last_s
            usage = event.get("usage") or usage
    if usage is None or first_s is None:
        raise AirLabError(f"{key} answered without a word, or without its count of tokens, so nothing can be measured")
    return _Timing(first_s - begun_s, last_s - first_s, usage["prompt_tokens"], usage["completion_tokens"])


def _rate(timing: _Timing) -> float:
    """Tokens a second after the first one, which belongs to the prompt's time."""
    return (timing.answer_tokens - 1) / timing.spoke_s if timing.spoke_s > 0 else 0.0


def _row(client: httpx.Client, key: str) -> dict[str, Any]:
    row: dict[str, Any] = next(row for row in read(client.get("/ps"))["models"] if row["key"] == key)
    return row


def _context_tokens(client: httpx.Client, key: str) -> int:
    """As it runs, which is known only now where the manifest leaves it open."""
    return int(next(entry for entry in read(client.get("/models"))["models"] if entry["key"] == key)["context_length"])


def _memory_bytes(row: dict[str, Any]) -> int | None:
    """Memory of an engine and what it started; None where there is none on this host."""
    known: int | None = row["memory_bytes"]
    if not row["pid"]:
        return known  # of a container AirLab knows it
    try:
        process = psutil.Process(row["pid"])
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.Error:
        return None
