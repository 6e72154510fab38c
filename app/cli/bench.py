"""``airlab bench``: measures models through the running AirLab, or one of its own; keeps, compares, draws.

The figures are what a client sees, AirLab included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import httpx

from app.cli.benchbook import Benchbook, Kept
from app.cli.benchcharts import sheets
from app.cli.benchlab import BenchLab, bench_lab, combinations, held_elsewhere, own_airlab
from app.cli.main import DONE
from app.cli.measuring import Measured, Plan, measure
from app.cli.plot import svg
from app.cli.remote import connected, read
from app.devices.ask import printable
from app.devices.probe import probe_host
from app.errors import AirLabError, BadRequestError, ModelNotFoundError
from app.settings import Settings, read_settings
from app.units import format_bytes, format_duration, parse_tokens

_LINE_CHARS, _MOST_LINES = 120, 10
_MOST_TOKENS = 1_048_576
_TITLES = (
    *("RUN", "MODEL", "QUANTISATION", "CONTEXT", "SLOTS", "PROMPT", "AT ONCE"),
    *("FIRST WORD", "PROMPT t/s", "ANSWER t/s", "ALL t/s", "LOAD", "MEMORY"),
)


def bench(options: argparse.Namespace) -> int:
    """Measure, keep, and print beside the runs before; with ``--show`` only print.

    What was measured is kept, also where the rest could not be.

    Raises:
        AirLabError: A model is unknown, does not load, or does not answer; with contexts or slots of the bench's own,
            none of them could be measured.
    """
    settings = read_settings()
    book = Benchbook(settings.state / "bench.db")
    run = None
    if not options.show:
        book.last(runs=1)  # a file that cannot be used is said now, and not after hours
        plan = Plan(options.prompts, options.at_once, options.tokens, options.repeat)
        measured: list[Measured] = []
        try:
            with closing(_measured(options, settings, plan)) as figures:
                for figure in figures:
                    measured.append(figure)
                    _say(f"{_told(figure)}: {figure.generate_per_s} tokens/s")
        except KeyboardInterrupt:
            if not measured:
                _say("stopped before anything was measured: nothing is kept")
            raise
        finally:
            if measured:
                run = book.keep(measured, at_s=time.time(), host=_host(), note=options.note)
                _say(f"figures kept as run {run}: {len(measured)}; `airlab bench --show` prints them")
        if run is None:
            raise AirLabError("nothing was measured; why is said above")
    kept = book.last(runs=options.runs, models=options.models)
    if options.svg is not None:
        _write(options.svg, svg(sheets(kept)))
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


def _measured(options: argparse.Namespace, settings: Settings, plan: Plan) -> Generator[Measured]:
    """The figures, from an AirLab of our own where one is asked for, or numbers that the running one has not."""
    own_numbers = options.contexts or options.slots
    if options.url is not None and (own_numbers or options.alone):
        raise BadRequestError(
            "--url names a running AirLab, but --contexts, --slots and --alone measure one of the bench's own; leave "
            "one of them out"
        )
    if (own_numbers or options.alone) and (held := held_elsewhere(settings)) is not None:
        _say(held)
    if own_numbers:
        with bench_lab(options, settings) as lab:
            yield from _each_load(lab, options, plan)
    elif options.alone:
        with tempfile.TemporaryDirectory(prefix="airlab-bench-") as state, own_airlab(options, Path(state)) as client:
            yield from _as_they_are(client, options.models, plan)
    else:
        with connected(options) as client:
            yield from _as_they_are(client, options.models, plan)


def _as_they_are(client: httpx.Client, wanted: Sequence[str], plan: Plan) -> Iterator[Measured]:
    """Models with the numbers that AirLab gives them; where none is named, all that chat."""
    found = read(client.get("/models"))
    entries = {entry["key"]: entry for entry in found["models"]}
    _require_known(wanted, tuple(entries))
    chat = {entry["id"] for entry in found["data"] if "chat" in entry["capabilities"]}
    there = [key for key, entry in entries.items() if entry["exists"] and entry["problem"] is None]
    keys = wanted or [key for key in there if key in chat]
    progress = _Progress(len(keys))
    for key in keys:
        progress.begin(key)
        yield from measure(client, entries[key], plan, _say)
        progress.end()


def _each_load(lab: BenchLab, options: argparse.Namespace, plan: Plan) -> Iterator[Measured]:
    """Every model with every context and number of slots; what cannot be had is said, and left out."""
    _require_known(options.models, tuple(lab.models))
    there = [key for key, model in lab.models.items() if model.on_disk]
    keys = options.models or [key for key in there if "chat" in lab.models[key].section.kind]
    loads = [(key, one) for key in keys for one in combinations(options.contexts, options.slots)]
    progress = _Progress(len(loads))
    for key, one in loads:
        progress.begin(f"{key} with {one}")
        try:
            yield from measure(lab.client, lab.set_up(key, one), plan, _say)
        except AirLabError as exc:
            _say(f"left out: {exc.message}")
            progress.end(was_measured=False)
        else:
            progress.end()


def _require_known(wanted: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [key for key in wanted if key not in known]:
        raise ModelNotFoundError(f"no model {unknown[0]!r}; there are {', '.join(known)}")


class _Progress:
    """Says which of all loads comes, and how long the rest may take if they are like those before."""

    def __init__(self, loads: int) -> None:
        self._loads, self._ended, self._timed, self._begun_s = loads, 0, 0, time.monotonic()

    def begin(self, what: str) -> None:
        """One begins."""
        rest = ""
        if self._timed:
            each_s = (time.monotonic() - self._begun_s) / self._timed
            rest = f", about {format_duration(round(each_s * (self._loads - self._ended)))} to go"
        _say(f"[{self._ended + 1} of {self._loads}] {what}{rest}")

    def end(self, *, was_measured: bool = True) -> None:
        """It is measured; or left out, which takes no time that tells of the others'."""
        self._ended += 1
        self._timed += was_measured


def _told(figure: Measured) -> str:
    return f"{figure.model}: {figure.prompt_tokens} tokens, {figure.at_once} at once"


def _say(words: str) -> None:
    """Tell people; the arithmetic of what does not fit takes several lines."""
    for line in textwrap.wrap(words, _LINE_CHARS)[:_MOST_LINES]:
        print(printable(line), file=sys.stderr, flush=True)


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
        "" if figure.context_length is None else str(figure.context_length),
        "" if figure.slots is None else str(figure.slots),
        str(figure.prompt_tokens),
        str(figure.at_once),
        format_duration(figure.ttft_s),
        f"{figure.prompt_per_s:.0f}",
        f"{figure.generate_per_s:.1f}",
        f"{figure.total_per_s:.1f}",
        "" if figure.load_s is None else format_duration(figure.load_s),
        "" if figure.memory_bytes is None else format_bytes(figure.memory_bytes),
    )


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


def numbers(text: str, least: int = 1, most: int = _MOST_TOKENS) -> tuple[int, ...]:
    """Read ``128,1024`` or ``1k,8k``. Raises ArgumentTypeError, also where one is out of its range."""
    try:
        found = tuple(parse_tokens(part) for part in text.split(","))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{exc}; several are parted by commas: 2k,8k") from exc
    if not all(least <= number <= most for number in found):
        raise argparse.ArgumentTypeError(f"each of {text} must be {least} to {most}")
    return found


def contexts(text: str) -> tuple[int, ...]:
    """Context lengths, as the manifest has them. Raises ArgumentTypeError."""
    return numbers(text, least=512)


def slots(text: str) -> tuple[int, ...]:
    """Numbers of slots, as the manifest has them. Raises ArgumentTypeError."""
    return numbers(text, most=64)


def takes(_name: str, command: argparse.ArgumentParser) -> None:
    """Give ``airlab bench`` its options."""
    command.set_defaults(does="bench:bench")
    command.add_argument("models", nargs="*", metavar="MODEL", help="keys; all that are on disk where none is given")
    command.add_argument("--prompts", type=numbers, default=(128, 512, 2048), help="lengths in tokens (128,512,2048)")
    command.add_argument("--at-once", type=numbers, help="requests side by side (1,2,4 and the slots, up to those)")
    command.add_argument(
        "--contexts", type=contexts, default=(), help="load with each of these, such as 2k,8k (--alone)"
    )
    command.add_argument("--slots", type=slots, default=(), help="load with each of these, such as 1,2,4 (--alone)")
    command.add_argument("--tokens", type=int, default=64, help="length of each answer (64)")
    command.add_argument("--repeat", type=int, default=3, help="requests of each kind (3)")
    command.add_argument("--note", default="", help="a word that is kept with the run, such as the build")
    command.add_argument("--runs", type=int, default=5, help="print so many last runs (5)")
    command.add_argument("--show", action="store_true", help="measure nothing, print the runs before")
    command.add_argument("--alone", action="store_true", help="start an AirLab for this; the running one is left alone")
    command.add_argument("--svg", type=Path, metavar="FILE", help="draw the runs into this file")
    command.add_argument("--url", help="the running AirLab (else from the manifest and the environment)")
    command.add_argument("--json", action="store_true", help="print JSON")
