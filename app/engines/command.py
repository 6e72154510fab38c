"""RunSpec -> Launch: the exact argument list and environment, as data. Pure, so that ``airlab plan`` can print it.

The flags are an allow-list: what is not written here cannot reach llama-server. Never passed: --tools, --agent, --rpc,
--slot-save-path, --props, --path, --log-file, -hf, --model-url, --api-key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath

from app.engines.base import Fit, Launch, RunSpec, WeightsId
from app.errors import EngineError
from app.manifest.schema import Kind

_SOCKET_BYTES = 100
"""Below the kernel's 107 for the path of a unix socket."""

CACHE_RAM_MIB = 512
"""llama-server keeps old prompts in memory, 8 GiB of them by default: 24 chats grew it from 218 to 757 MiB."""

BATCH_TOKENS = 512
"""A prompt's processing ends between batches only: cancelling took 3.9 s at the default of 2048, 0.1 s at 512."""

DEFAULT_CONTEXT = 4096
"""Tokens of a context that is to be found automatically, where nothing is known to find it by."""

_SHARED_EMBEDDING_TOKENS = 1024
"""Longest text that a model embeds which also chats. A text is embedded in one batch, and a chat's prompt ends between
batches only when its client leaves, so this is the middle between long texts and prompt cancelling."""

_SPARE_HTTP_THREADS = 16
"""Beyond one for each slot: without them 10 streams on 2 slots kept /health waiting for 8 s."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""All that a llama-server may know of our environment: no key, no token, no LLAMA_ARG_* that would add flags."""

NO_PROGRAMS = {"LLAMA_ARG_VIDEO_FFMPEG_DIR": "/nonexistent"}
"""llama-server hands what it takes for no image to ffmpeg where there is one: a client's bytes, to a large program with
our rights. By the environment, since one that knows no such option would refuse it."""


def socket_name(number: int, key: str) -> str:
    """The file name of an instance's socket: the number makes it one path for each, the key says whose it is."""
    return f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', key)[:24]}.sock"


def as_written(run: RunSpec) -> Fit:
    """The run's own numbers, and the smallest for what it leaves open: a start where no memory could be looked at."""
    return Fit(run.context_length or DEFAULT_CONTEXT, run.slots or 1, run.gpu_layers, run.threads)


def launch_for(
    key: str, run: RunSpec, *, socket: Path, environment: Mapping[str, str], fit: Fit | None = None
) -> Launch:
    """What starts this model on this socket; with the run's own numbers where no ``fit`` was made.

    Raises:
        EngineError: The model has no file, llama-server would read an adapter's path as two, or the socket's path is
            too long for the kernel.
    """
    if len(str(socket).encode()) > _SOCKET_BYTES:
        raise EngineError(
            f"the socket path {socket} is longer than {_SOCKET_BYTES} bytes; point TMPDIR at a shorter folder"
        )
    passed = {name: environment[name] for name in _PASSED_ON if name in environment} | {
        "HOME": "/nonexistent",
        **NO_PROGRAMS,
    }
    if fit is not None and fit.gpus:
        # By nvidia-smi's numbers: CUDA's own order is by speed. No other card then keeps a context for this model.
        visible = ",".join(map(str, fit.gpus))
        passed |= {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return Launch(key, arguments(key, run, socket, fit=fit), socket, passed, run, fit)


def batch_tokens(kinds: frozenset[Kind], context_length: int) -> int:
    """Tokens that are worked on at once; a text that is read whole, and a query with a document, must fit in."""
    if not reads_whole(kinds):
        return BATCH_TOKENS
    return min(context_length, _SHARED_EMBEDDING_TOKENS) if "chat" in kinds else context_length


def reads_whole(kinds: frozenset[Kind]) -> bool:
    """Whether it has to have a whole text before it before anything comes of it."""
    return "embedding" in kinds or "rerank" in kinds


def _batches(run: RunSpec, fit: Fit) -> dict[str, int]:
    tokens = batch_tokens(run.kinds, fit.context_length)
    return {"--batch-size": tokens} | ({"--ubatch-size": tokens} if reads_whole(run.kinds) else {})


def _devices(run: RunSpec, fit: Fit, *, computed: bool) -> dict[str, str | int]:
    pairs: dict[str, str | int] = {}
    if fit.gpu_layers is not None:
        # llama-server takes 999 for all: more than any model has.
        pairs["--n-gpu-layers"] = 999 if fit.gpu_layers < 0 else fit.gpu_layers
    if fit.gpu_shares:
        pairs |= {"--split-mode": "layer", "--tensor-split": ",".join(map(str, fit.gpu_shares))}
    if computed and fit.gpu_layers is not None:
        # The fit is ours then; llama-server's own would change numbers that are booked.
        pairs["--fit"] = "off"
    if fit.cpus or (run.numa == "per-node" and not computed):
        # Of a process, "one node" is the one that it was started on.
        pairs["--numa"] = "isolate"
    elif run.numa != "off":
        pairs["--numa"] = "distribute"  # per-node, too: no node was large enough
    return pairs


def arguments(
    key: str,
    run: RunSpec,
    socket: Path,
    *,
    places: Mapping[Path, PurePath] | None = None,
    fit: Fit | None = None,
) -> tuple[str, ...]:
    """The argument list for a run.

    Args:
        key: The model's key.
        run: What is to be run.
        socket: Where it is to serve.
        places: Where llama-server finds each file of the run; where it lies here if None.
        fit: What was decided for this start; the run's own numbers if None.

    Raises:
        EngineError: The model has no file, or llama-server would read an adapter's path as two.
    """
    if run.weights is None:
        raise EngineError(f"{key} has no file on disk")

    def place_of(file: WeightsId) -> PurePath:
        return places[file.path] if places is not None else file.path

    given, fit = fit, fit or as_written(run)
    pairs = {
        "--model": place_of(run.weights),
        "--host": socket,
        # Without an alias the file's path shows in answers; with several the alphabetically first would.
        "--alias": key,
        # llama-server divides its context among the slots.
        "--ctx-size": fit.context_length * fit.slots,
        "--parallel": fit.slots,
        "--threads": fit.threads,
        "--threads-http": fit.slots + _SPARE_HTTP_THREADS,
        **_batches(run, fit),
        "--cache-ram": fit.cache_ram_mib,
        "--cache-reuse": 32,
        **_devices(run, fit, computed=given is not None),
    }
    if run.cache_type is not None:
        pairs |= {"--cache-type-k": run.cache_type, "--cache-type-v": run.cache_type}
    if run.mmproj is not None:
        pairs["--mmproj"] = place_of(run.mmproj)
    if run.draft_model is not None:
        pairs |= _draft(run, place_of(run.draft_model), fit)
    flags = [part for adapter in run.adapters for part in ("--lora", _whole(place_of(adapter)))]
    flags += ["--no-mmproj-offload"] if run.mmproj is not None and fit.gpu_layers == 0 else []
    flags += ["--no-webui", "--offline"]
    if reads_whole(run.kinds):
        # Serves embeddings and chat; without it /v1/embeddings answers 501. With rank, which is what --reranking stands
        # for, /v1/rerank is served, and nothing else may be asked for.
        flags += ["--embeddings", "--pooling", "rank" if "rerank" in run.kinds else "mean"]
    return (*(str(part) for pair in pairs.items() for part in pair), *flags)


def _draft(run: RunSpec, model: PurePath, fit: Fit) -> dict[str, str | int | PurePath]:
    """The draft model lies where the first layers of its model go: wholly on the GPU, or not at all."""
    # Without a type llama-server loads the draft model, and lets go of it again.
    pairs: dict[str, str | int | PurePath] = {"--spec-draft-model": model, "--spec-type": "draft-simple"}
    if run.draft_tokens is not None:
        pairs["--spec-draft-n-max"] = run.draft_tokens
    if fit.gpu_layers is not None:
        pairs["--spec-draft-ngl"] = 0 if fit.gpu_layers == 0 else 999
    # It works while its model waits, so the two share threads.
    pairs["--spec-draft-threads"] = fit.threads
    if run.cache_type is not None:
        pairs |= {"--spec-draft-type-k": run.cache_type, "--spec-draft-type-v": run.cache_type}
    return pairs


def _whole(path: PurePath) -> str:
    if "," in str(path):
        raise EngineError(f"llama-server takes {path} for two files; rename it without the comma")
    return str(path)
