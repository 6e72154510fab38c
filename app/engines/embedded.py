"""The embedded engine: the llama.cpp server inside the ``xllamacpp`` wheel, run behind llama-server's own arguments.

``python -m app.engines.embedded ARGS...`` is one more llama-server binary: it takes the arguments that AirLab passes to
the real one and serves the same HTTP API, so that whoever supervises it needs to know no difference. It knows nothing
of manifests, models or requests.

What differs from the real one: it removes its socket when it ends, it ends at once where llama-server would hang on an
open request, and it also ends when its stdin, a pipe from whoever started it, closes. While a model loads both answer
``/health`` with 503.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

CANNOT_SERVE, WRONG_USAGE = 1, 2

_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_ON_OFF = {"on": True, "off": False}


class _Parser(argparse.ArgumentParser):
    """Refuses in one line: these arguments come from a program, and the line ends up in its log."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"embedded engine: {message}\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments that AirLab gives to a llama-server; the rest, and all short forms, are refused.

    Returns:
        What was given and nothing else, by the name of its attribute in ``xllamacpp.CommonParams``.

    Raises:
        SystemExit: An argument is unknown or wrong; one line on stderr says so, the code is 2.
    """
    parser = _Parser(prog="embedded engine", allow_abbrev=False, argument_default=argparse.SUPPRESS)

    def option(flag: str, attribute: str, **how: Any) -> None:
        parser.add_argument(flag, dest=attribute, **how)

    option("--model", "model", type=Path, required=True, metavar="PATH")
    option("--host", "host", required=True, metavar="ADDRESS or SOCKET")
    option("--port", "port", type=int, default=8080)
    option("--alias", "alias")
    option("--ctx-size", "n_ctx", type=int)
    option("--parallel", "n_parallel", type=int)
    option("--threads", "n_threads", type=int)
    option("--threads-http", "n_threads_http", type=int)
    option("--batch-size", "n_batch", type=int)
    option("--ubatch-size", "n_ubatch", type=int)
    option("--cache-ram", "cache_ram_mib", type=int)
    option("--cache-reuse", "n_cache_reuse", type=int)
    option("--n-gpu-layers", "n_gpu_layers", type=_layers)
    option("--cache-type-k", "cache_type_k", choices=_CACHE_TYPES)
    option("--cache-type-v", "cache_type_v", choices=_CACHE_TYPES)
    option("--embeddings", "embedding", action="store_true")
    option("--pooling", "pooling_type", choices=("none", "mean", "cls", "last", "rank"))
    option("--chat-template-file", "chat_template", type=_existing_file)
    option("--lora", "lora_adapters", type=_existing_file, action="append")
    option("--mmproj", "mmproj", type=_existing_file)
    option("--no-mmproj-offload", "mmproj_use_gpu", action="store_false")
    option("--spec-draft-model", "draft_model", type=_existing_file)
    option("--spec-type", "draft_type", choices=("draft-simple",))
    option("--spec-draft-n-max", "draft_n_max", type=int)
    option("--spec-draft-ngl", "draft_n_gpu_layers", type=_layers)
    option("--spec-draft-threads", "draft_threads", type=int)
    option("--spec-draft-type-k", "draft_cache_type_k", choices=_CACHE_TYPES)
    option("--spec-draft-type-v", "draft_cache_type_v", choices=_CACHE_TYPES)
    option("--numa", "numa", choices=("distribute", "isolate", "numactl"))
    option("--no-webui", "ui", action="store_false")
    option("--offline", "offline", action="store_true")
    option("--metrics", "endpoint_metrics", action="store_true")
    option("--no-slots", "endpoint_slots", action="store_false")
    option("--fit", "fit_params", choices=tuple(_ON_OFF))
    option("--timeout", "timeout_s", type=int)
    return parser.parse_args(argv)


def _existing_file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def _layers(text: str) -> int:
    """llama-server's words for all layers, and for as many as fit."""
    words = {"auto": -1, "all": -2}
    return words[text] if text in words else int(text)


def params_for(given: argparse.Namespace, xllamacpp: Any) -> Any:
    """Fill llama.cpp's parameters from what ``parse`` returned; whatever was not given keeps llama.cpp's default."""
    values = vars(given).copy()
    params = xllamacpp.CommonParams()
    params.model.path = str(values.pop("model"))
    params.hostnames = [values.pop("host")]
    if "alias" in values:
        params.model_alias = {values.pop("alias")}
    if "n_threads" in values:
        # The prompt's threads follow the generation's, as llama-server has it without --threads-batch.
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = values.pop("n_threads")
    if "timeout_s" in values:
        params.timeout_read = params.timeout_write = values.pop("timeout_s")
    if "chat_template" in values:
        params.chat_template = values.pop("chat_template").read_text(encoding="utf-8")
    if "lora_adapters" in values:
        params.lora_adapters = [_adapter(path, xllamacpp) for path in values.pop("lora_adapters")]
    if "mmproj" in values:
        params.mmproj.path = str(values.pop("mmproj"))
        # What it takes for no image it would hand to ffmpeg, where there is one.
        params.video_ffmpeg_bin_dir = "/nonexistent"
    _fill_draft(params, {name: values.pop(name) for name in tuple(values) if name.startswith("draft_")}, xllamacpp)
    enums = {
        "cache_type_k": (xllamacpp.ggml_type, "GGML_TYPE_"),
        "cache_type_v": (xllamacpp.ggml_type, "GGML_TYPE_"),
        "pooling_type": (xllamacpp.llama_pooling_type, "LLAMA_POOLING_TYPE_"),
        "numa": (xllamacpp.ggml_numa_strategy, "GGML_NUMA_STRATEGY_"),
    }
    for attribute, value in values.items():
        if attribute in enums:
            enum, prefix = enums[attribute]
            setattr(params, attribute, enum[prefix + value.upper()])
        else:
            setattr(params, attribute, _ON_OFF.get(value, value))
    return params


def _fill_draft(params: Any, values: dict[str, Any], xllamacpp: Any) -> None:
    """Fill what was given of a draft model."""
    draft = params.speculative.draft
    if "draft_model" in values:
        draft.mparams.path = str(values.pop("draft_model"))
    if "draft_type" in values:
        kind = values.pop("draft_type").upper().replace("-", "_")
        params.speculative.types = [xllamacpp.common_speculative_type[f"COMMON_SPECULATIVE_TYPE_{kind}"]]
    if "draft_threads" in values:
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = values.pop("draft_threads")
    for name, value in values.items():
        is_type = name.startswith("draft_cache_type")
        setattr(
            draft, name.removeprefix("draft_"), xllamacpp.ggml_type[f"GGML_TYPE_{value.upper()}"] if is_type else value
        )


def _adapter(path: Path, xllamacpp: Any) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(path), 1.0
    return adapter


def serve(given: argparse.Namespace, xllamacpp: Any) -> int:
    """Load the model, then serve until SIGTERM, SIGINT or the end of stdin; that way ends the process, with code 0.

    While the model loads no Python runs here (the wheel keeps the interpreter's lock), so until then a signal has its
    default effect: the process is gone at once, and its socket file stays for the next one to remove.

    Returns:
        The exit code 1: the model could not be loaded, or the address not be bound.
    """
    socket = Path(given.host) if "/" in given.host else None
    _remove(socket)  # a dead server leaves its socket behind, and the next bind would fail on it
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(params_for(given, xllamacpp))
    except RuntimeError as exc:
        _remove(socket)
        # llama.cpp's exception has no cause in it; that stands in the lines it logged above this one.
        _complain(f"cannot serve {given.model} on {given.host}: {exc}")
        return CANNOT_SERVE
    _wait_for_the_end_of(server)
    _remove(socket)
    # Not by way of the server's destructor: it waits, with the interpreter's lock, until the last open stream has
    # been read to its end, which may be never. The kernel closes everything all the same.
    os._exit(0)


def _remove(socket: Path | None) -> None:
    if socket is not None:
        socket.unlink(missing_ok=True)


def _wait_for_the_end_of(_server: object) -> None:
    """Return once SIGTERM or SIGINT came, or whoever holds the other end of our stdin is gone.

    The server runs in threads of its own for as long as somebody refers to it.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    # The C part of Python's handler writes here whichever of llama.cpp's threads the kernel gave the signal to.
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    watched = [woken, 0] if _is_stream(0) else [woken]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if woken in ready or not os.read(0, 4096):
            return


def _is_stream(descriptor: int) -> bool:
    """Whether it is a pipe or a socket: a terminal or /dev/null on stdin is nobody's end of a line."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # started with stdin closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _complain(message: str) -> None:
    print(f"embedded engine: {message}", file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Run as a program: ends with 0 when asked to stop, 1 when it cannot serve, 2 when an argument is wrong."""
    given = parse(argv)
    try:
        import xllamacpp  # noqa: PLC0415 # arguments are judged first, without the 100 MB of the wheel
    except ImportError as exc:
        if "libgomp" in str(exc):
            _complain("libgomp is missing on this system; to fix: apt-get install libgomp1")
        else:
            _complain(f"xllamacpp cannot be imported ({exc}); to fix: make setup")
        return CANNOT_SERVE
    return serve(given, xllamacpp)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
