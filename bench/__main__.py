"""``python -m bench``: asks every question, prints the table, keeps the figures in bench/results/.

Exits 0 whatever the figures are, and 1 when one of them could not be taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bench import added_latency, reload, sessions, startup, stream_rate, switch, throughput, tools
from bench.figures import Figure, NotMeasuredError
from bench.host import host_facts
from bench.table import table


class Question(Protocol):
    """What a module of ours answers."""

    def __call__(self, *, quick: bool) -> list[Figure]:
        """The figures; ``quick`` takes fewer rounds. Raises NotMeasuredError, OSError."""


QUESTIONS: dict[str, Question] = {
    "startup": startup.measure,
    "latency-instant": added_latency.instant,
    "latency-engine": added_latency.engine,
    "throughput": throughput.measure,
    "stream-rate": stream_rate.measure,
    "switch": switch.measure,
    "reload": reload.measure,
    "sessions": sessions.measure,
    "tools": tools.measure,
}
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure AirLab beside its engine.")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"some of: {', '.join(QUESTIONS)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a rough picture in half a minute")
    options = parser.parse_args()
    if unknown := set(options.questions) - QUESTIONS.keys():
        parser.error(f"there is no question {', '.join(sorted(unknown))}; ask some of: {', '.join(QUESTIONS)}")
    begun, facts = datetime.now(UTC), host_facts()
    print(f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, {facts['engine']}", flush=True)
    figures, failures = ask(options.questions or QUESTIONS, quick=options.quick)
    if figures:
        print(f"\n{table(figures)}\n\nsaved in {save(begun, facts, figures, failures, quick=options.quick)}")
    for name, reason in failures.items():
        print(f"\n{name} could not be measured: {reason}", file=sys.stderr)
    return 1 if failures else 0


def ask(names: Iterable[str], *, quick: bool) -> tuple[list[Figure], dict[str, str]]:
    """The figures that could be taken, and why the others could not."""
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    for name in names:
        print(f"{name} ...", flush=True)
        try:
            figures += QUESTIONS[name](quick=quick)
        except (NotMeasuredError, OSError) as exc:  # TimeoutError is an OSError
            failures[name] = str(exc) or type(exc).__name__
    return figures, failures


def save(
    begun: datetime, facts: dict[str, Any], figures: list[Figure], failures: dict[str, str], *, quick: bool
) -> Path:
    """Write a file named after the moment at which the run began; its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{begun:%Y-%m-%dT%H-%M-%SZ}.json"
    took_s = round((datetime.now(UTC) - begun).total_seconds(), 1)
    content = {
        "begun": begun.isoformat(timespec="seconds"),
        "took_s": took_s,
        "quick": quick,
        "machine": facts,
        "figures": [figure.as_json() for figure in figures],
        "not_measured": failures,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
