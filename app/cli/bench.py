"""``airlab bench``: measures models through the running AirLab, or one of its own; keeps, compares, draws.

The figures are what a client sees, AirLab included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import httpx

from app.cli.benchbook import Benchbook, Kept
from app.cli.main import DONE
from app.cli.measuring import Measured, Plan, measure
from app.cli.plot import Chart, Line, svg
from app.cli.remote import connected, read
from app.devices.ask import printable
from app.devices.probe import probe_host
from app.errors import AirLabError, ModelNotFoundError
from app.settings import read_settings
from app.units import format_bytes, format_duration

_STOP_S = 60.0
_TITLES = (
    *("RUN", "MODEL", "QUANTISATION", "PROMPT", "AT ONCE", "FIRST WORD", "PROMPT t/s", "ANSWER t/s", "ALL t/s"),
    *("LOAD", "MEMORY"),
)


def bench(options: argparse.Namespace) -> int:
    """Measure, keep, and print beside the runs before; with ``--show`` only print.

    Raises:
        AirLabError: A model is unknown, does not load, or does not answer.
    """
    settings = read_settings()
    book = Benchbook(settings.state / "bench.db")
    run = None
    if not options.show:
        plan = Plan(options.prompts, options.at_once, options.tokens, options.repeat)
        with _airlab(options) as client:
            measured = list(_measure(client, options.models, plan))
        run = book.keep(measured, at_s=time.time(), host=_host(), note=options.note)
    kept = book.last(runs=options.runs, models=options.models)
    if options.svg is not None:
        _write(options.svg, svg(charts(kept)))
    if options.json:
        print(
            json.dumps(
                [
                    {"run": one.run, "at": _time(one.at_s), "host": one.host, "note": one.note, **asdict(one.measured)}
                    for one in kept
                ]
            )
        )
    else:
        print("\n".join(table(kept)) if kept else "nothing was measured yet")
    if run is not None and options.svg is not None:
        print(f"run {run} is drawn in {options.svg}", file=sys.stderr)
    return DONE


def _measure(client: httpx.Client, wanted: Sequence[str], plan: Plan) -> Iterator[Measured]:
    entries = {entry["key"]: entry for entry in read(client.get("/models"))["models"]}
    if unknown := [key for key in wanted if key not in entries]:
        raise ModelNotFoundError(f"no model {unknown[0]!r}; there are {', '.join(entries)}")
    keys = wanted or [key for key, entry in entries.items() if entry["exists"] and entry["problem"] is None]
    for key in keys:
        for one in measure(client, entries[key], plan, _say):
            _say(f"{key}: {one.prompt_tokens} tokens, {one.at_once} at once: {one.generate_per_s} tokens/s")
            yield one


def _say(words: str) -> None:
    print(printable(words), file=sys.stderr, flush=True)


@contextmanager
def _airlab(options: argparse.Namespace) -> Iterator[httpx.Client]:
    """A client of the AirLab that runs, or of one of our own, on a free port and in a folder of its own.

    Raises:
        AirLabError: Neither can be had.
    """
    if not options.alone:
        with connected(options) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="airlab-bench-") as state:
        environment = os.environ | {"AIRLAB_STATE_DIR": state, "AIRLAB_HOST": "127.0.0.1", "AIRLAB_PORT": "0"}
        environment.setdefault("AIRLAB_LOG_LEVEL", "warning")
        command = [sys.executable, "-m", "app", "serve"]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as own:
            try:
                line = own.stdout.readline() if own.stdout else ""
                if not line.startswith("AirLab serves on "):
                    raise AirLabError("an AirLab of its own did not start; its words are above")
                options.url = line.removeprefix("AirLab serves on ").strip()
                with connected(options) as client:
                    yield client
            finally:
                own.terminate()
                try:
                    own.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    own.kill()


def table(kept: Iterable[Kept]) -> list[str]:
    """The figures as lines of text, one a figure."""
    rows = [_TITLES, *map(_row, kept)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(one: Kept) -> tuple[str, ...]:
    figure = one.measured
    return (
        f"{one.run} {_time(one.at_s)}{f' {printable(one.note)}' if one.note else ''}",
        printable(figure.model),
        printable(figure.quantisation or ""),
        str(figure.prompt_tokens),
        str(figure.at_once),
        format_duration(figure.ttft_s),
        f"{figure.prompt_per_s:.0f}",
        f"{figure.generate_per_s:.1f}",
        f"{figure.total_per_s:.1f}",
        "" if figure.load_s is None else format_duration(figure.load_s),
        "" if figure.memory_bytes is None else format_bytes(figure.memory_bytes),
    )


def charts(kept: Sequence[Kept]) -> list[Chart]:
    """Speed of prompts, of answers, and the first word, over the prompt's length: a line for each run and model."""
    drawn: tuple[tuple[str, Callable[[Measured], float]], ...] = (
        ("Prompt, tokens per second", lambda figure: figure.prompt_per_s),
        ("Answer, tokens per second, all requests", lambda figure: figure.total_per_s),
        ("First word, seconds", lambda figure: figure.ttft_s),
        ("Memory, GiB", lambda figure: (figure.memory_bytes or 0) / 2**30),
    )
    series: dict[str, list[Measured]] = {}
    for one in kept:
        figure = one.measured
        kind = f" {figure.quantisation}" if figure.quantisation else ""
        series.setdefault(f"{one.run}: {figure.model}{kind} x{figure.at_once}", []).append(figure)
    return [
        Chart(
            title,
            "tokens in the prompt",
            tuple(
                Line(name, tuple(sorted((float(figure.prompt_tokens), float(value(figure))) for figure in figures)))
                for name, figures in series.items()
            ),
        )
        for title, value in drawn
    ]


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise AirLabError(f"{file} cannot be written: {exc.strerror}") from exc


def _host() -> str:
    host = probe_host(can_offload=False)
    return f"{host.cpu_model or 'unknown processor'}, {host.cores} cores"


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")


def numbers(text: str) -> tuple[int, ...]:
    """Read ``128,1024``. Raises ValueError."""
    found = tuple(int(part) for part in text.split(","))
    if not all(1 <= number <= 1_000_000 for number in found):
        raise ValueError("each must be 1 or more")
    return found


def takes(_name: str, command: argparse.ArgumentParser) -> None:
    """Give ``airlab bench`` its options."""
    command.set_defaults(does="bench:bench")
    command.add_argument("models", nargs="*", metavar="MODEL", help="keys; all that are on disk where none is given")
    command.add_argument("--prompts", type=numbers, default=(128, 512, 2048), help="lengths in tokens (128,512,2048)")
    command.add_argument("--at-once", type=numbers, default=(1, 2, 4), help="requests side by side (1,2,4)")
    command.add_argument("--tokens", type=int, default=64, help="length of each answer (64)")
    command.add_argument("--repeat", type=int, default=3, help="requests of each kind (3)")
    command.add_argument("--note", default="", help="a word that is kept with the run, such as the build")
    command.add_argument("--runs", type=int, default=5, help="print so many last runs (5)")
    command.add_argument("--show", action="store_true", help="measure nothing, print the runs before")
    command.add_argument("--alone", action="store_true", help="start an AirLab for this; the running one is left alone")
    command.add_argument("--svg", type=Path, metavar="FILE", help="draw the runs into this file")
    command.add_argument("--url", help="the running AirLab (else from the manifest and the environment)")
    command.add_argument("--json", action="store_true", help="print JSON")
