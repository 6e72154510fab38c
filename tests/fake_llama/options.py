"""The few of llama-server's arguments that change what the fake answers; every other one is taken and ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What the command line said, and all of it as it came."""

    argv: tuple[str, ...]
    model: Path
    host: str
    port: int
    alias: str
    parallel: int
    slot_ctx_tokens: int
    embeddings: bool
    pooling: str
    metrics: bool


def read_options(argv: Sequence[str]) -> Options:
    """The arguments, last one wins, as with llama-server; ``--ctx-size`` is shared out among the slots."""

    def value(*names: str, default: str = "") -> str:
        places = [place for place, argument in enumerate(argv[:-1]) if argument in names]
        return argv[places[-1] + 1] if places else default

    model = Path(value("-m", "--model"))
    parallel = max(1, int(value("-np", "--parallel", default="4")))
    ctx_tokens = int(value("-c", "--ctx-size", default="0")) or 4096 * parallel
    return Options(
        argv=tuple(argv),
        model=model,
        host=value("--host", default="127.0.0.1"),
        port=int(value("--port", default="8080")),
        # Of several names the alphabetically first answers, and without one the file's.
        alias=min(value("-a", "--alias").split(",")) or model.name,
        parallel=parallel,
        slot_ctx_tokens=ctx_tokens // parallel,
        embeddings="--embeddings" in argv or "--embedding" in argv,
        pooling=value("--pooling"),
        metrics="--metrics" in argv,
    )
