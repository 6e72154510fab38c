"""``airlab approvals``: the calls that wait for a person's word, whoever asked for them, and the word itself."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx
from rich.console import Console

from app.cli.chat.person import allows
from app.cli.main import DONE
from app.cli.remote import connected, read
from app.devices.ask import printable

_LOOK_S = 1.0


def approvals(options: argparse.Namespace) -> int:
    """Print the calls that wait, and on a terminal ask about each; with ``--follow`` about those to come, too."""
    seen: set[str] = set()
    with connected(options) as client:
        while True:
            waiting = read(client.get("/approvals"))["approvals"]
            if options.json:
                print(json.dumps(waiting))
                return DONE
            for approval in (each for each in waiting if each["id"] not in seen):
                seen.add(approval["id"])
                _show(client, approval)
            if not options.follow:
                return DONE
            time.sleep(_LOOK_S)


def answer(client: httpx.Client, approval: Mapping[str, Any]) -> str | None:
    """Ask whoever sits at the terminal, for as long as the call waits; no answer is a no.

    Returns:
        What AirLab says to the answer; None when the call waits no more: its time is over, or somebody else was first.
    """
    asked = {name: approval[name] for name in ("words", "arguments", "limit_s")}
    body = {"grant": allows(Console(stderr=True, highlight=False), **asked)}
    response = client.post(f"/approvals/{quote(approval['id'], safe='')}", json=body)
    return None if response.status_code == httpx.codes.NOT_FOUND else str(read(response)["message"])


def _show(client: httpx.Client, approval: Mapping[str, Any]) -> None:
    asked = f"{time.strftime('%H:%M:%S', time.localtime(approval['asked_ms'] / 1000))} {approval['actor']}"
    if sys.stdin.isatty():
        print(printable(f"{asked} asks"), flush=True)
        print(printable(answer(client, approval) or "this call waits no more"), flush=True)
    else:
        print(printable(f"{asked} asks: {approval['words']} (POST /approvals/{approval['id']})"), flush=True)
