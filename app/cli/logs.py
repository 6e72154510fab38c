"""``airlab logs MODEL``: what the engine of a model wrote. Its words are untrusted, and steer no terminal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from app.cli.main import DONE
from app.cli.remote import connected, read
from app.devices.ask import printable
from app.errors import AirLabError


def logs(options: argparse.Namespace) -> int:
    """Print the last lines; with ``--follow`` go on until the server, or the reader, ends.

    Raises:
        AirLabError: No such model, or it runs elsewhere.
    """
    path = f"/models/{quote(options.model, safe='')}/logs"
    with connected(options) as client:
        if not options.follow:
            for line in read(client.get(path, params={"tail": options.lines}))["lines"]:
                print(printable(line))
            return DONE
        with client.stream("GET", path, params={"tail": options.lines, "follow": "true"}) as answer:
            if answer.is_error:
                raise AirLabError(json.loads(answer.read())["error"]["message"])
            for text in shown(events(answer.iter_lines())):
                print(text, flush=True)
    return DONE


def events(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Server-sent events: their type and their JSON."""
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def shown(told: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """What is printed of each event: lines, and a word where another engine begins to write."""
    number = None
    for kind, values in told:
        if kind == "line":
            yield printable(values["line"])
        elif kind == "engine" and number not in {None, values["instance"]}:
            yield f"--- another engine (number {values['instance']})"
        elif kind == "engine" and number is not None and not values["running"]:
            yield "--- the engine ended"
        if kind == "engine":
            number = values["instance"] or number
