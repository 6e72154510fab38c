"""How much slower does text stream through AirLab? Tokens a second of 1 and of 16 streams on the real engine."""

from __future__ import annotations

import re

import uvloop

from bench.chats import streamed
from bench.figures import Budget, Figure, NotMeasuredError
from bench.load import Target, ask_together
from bench.rounds import rounds
from bench.targets import MODEL, airlab, manifest

_TOKENS = 128
_USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')


def measure(*, quick: bool) -> list[Figure]:
    """Tokens a second from the question to the end of the last stream, direct and through AirLab in turn."""
    figures = []
    with airlab(manifest({"bench": MODEL.name}, slots=16)) as service:
        engine = service.engine("bench")
        for streams, count, within_s in ((1, 3 if quick else 9, 25.0), (16, 1 if quick else 4, 35.0)):
            direct, through = [], []
            _rate(service.target, streams, tokens=8)  # every slot has the prompt cached
            for _ in rounds(count, within_s=within_s):
                direct.append(_rate(engine.target, streams))
                through.append(_rate(service.target, streams))
            name = f"stream rate, {streams} stream{'s' if streams > 1 else ''}"
            figures.append(Figure(name, "tokens/s", through, direct, Budget(0.99, "at least", "ratio")))
    return figures


def _rate(target: Target, streams: int, *, tokens: int = _TOKENS) -> float:
    request = target.request("/v1/chat/completions", streamed("bench", tokens=tokens))
    bodies, took_s = uvloop.run(ask_together(target, [request] * streams))
    streamed_tokens = sum(_tokens(body) for body in bodies)
    if streamed_tokens != streams * tokens:
        raise NotMeasuredError(f"{streams} streams had {streamed_tokens} tokens and not {tokens} each")
    return streamed_tokens / took_s


def _tokens(body: bytes) -> int:
    """How many tokens a stream says that it had; 0 when it was broken off."""
    counts = _USAGE.findall(body)
    return int(counts[-1]) if counts and body.rstrip().endswith(b"data: [DONE]") else 0
