"""What a fake llama-server is told to do: the keys of its script, read once at each start.

The script is the JSON file ``<model file>.fault.json``: AirLab builds an engine's environment and arguments itself, so
a file beside the weights is the one thing a test can hand through. Nothing here knows how a fault is carried out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Script:
    """Every key a script may have; the defaults make an engine without faults.

    Faults named ``..._after_tokens`` come after that many tokens of an answer, at its end at the latest.
    """

    # Loading: /health answers 503 until it is over.
    load_s: float = 0.0
    load_until_file: str | None = None  # loading ends when this file exists, however long load_s is
    load_forever: bool = False
    progress: bool = False  # while loading, use CPU time and log a line every 0.2 s; else be silent

    # The process.
    exit_code: int | None = None
    exit_at: str = "start"  # or "load" (in place of becoming ready), or "request:N" (at the Nth completion, unanswered)
    exit_message: str | None = None  # a last line on stderr
    die_after_s: float | None = None  # killed so long after it became ready, whatever it does then
    ignore_sigterm: bool = False
    fork_setsid_grandchild: bool = False  # outlives a group kill and holds stdout open, for 60 s at most
    health_ok_but_hung: bool = False  # completions and /slots never answer

    # An answer that breaks off or is malformed.
    stall_after_tokens: int | None = None
    ping_s: float | None = None  # an empty comment in every stream so often, as --sse-ping-interval, whatever stalls
    close_after_tokens: int | None = None
    die_after_tokens: int | None = None
    garbage_sse: bool = False
    no_done: bool = False
    huge_line: bool = False  # the second token is 1 MiB long
    bad_utf8: bool = False  # the second token is no UTF-8
    status: int | None = None  # every completion is answered with this status and an error body
    unavailable_n_times: int = 0  # so many completions are answered 503 first

    # An answer that is one.
    tokens: int = 8
    token_s: float = 0.0  # a pause before each token
    token_gate_file: str | None = None  # tokens after the first wait until this file exists
    echo: bool = False  # the answer is the last user message
    replies: tuple[Any, ...] = ()  # taken in turn, the last one again and again: see answers.scripted_steps
    instant: bool = False  # bytes rendered once; holds no slot, is not recorded, keeps the connection after a stream
    supports_tools: bool = False  # what /props says of the chat template

    # Connections between requests, as the real one closes them.
    keep_alive_s: float = 5.0
    keep_alive_requests: int = 100

    @property
    def exit_at_request(self) -> int | None:
        """Number of the completion at which the process exits, counted from 1."""
        kind, _, number = self.exit_at.partition(":")
        return int(number) if kind == "request" else None


def parse_script(text: str, *, start: int = 1) -> Script:
    """The script for the given start, counted from 1.

    ``"starts": [{...}, {...}]`` holds what differs from start to start; the last entry is for all later ones as well.

    Raises:
        ValueError: A key is unknown or a value cannot be meant: a misspelt fault would be no fault.
    """
    script = json.loads(text)
    starts = script.pop("starts", [{}])
    script |= starts[min(start, len(starts)) - 1]
    known = {field.name for field in fields(Script)}
    if unknown := sorted(script.keys() - known):
        raise ValueError(f"no such key: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if "replies" in script:
        script["replies"] = tuple(script["replies"])
    parsed = Script(**script)
    if parsed.exit_at not in {"start", "load"} and not (parsed.exit_at_request or 0) > 0:
        raise ValueError(f'exit_at is {parsed.exit_at!r}; write "start", "load" or "request:N"')
    return parsed


def script_file(model_file: Path) -> Path:
    """Where the script for this model lies."""
    return model_file.with_name(f"{model_file.name}.fault.json")


def starts_file(model_file: Path) -> Path:
    """A file with one byte for each start since the script was written."""
    return model_file.with_name(f"{model_file.name}.starts")


def grandchildren_file(model_file: Path) -> Path:
    """A file with the process id of each grandchild, one a line."""
    return model_file.with_name(f"{model_file.name}.grandchildren")


def read_script(model_file: Path) -> tuple[Script, int]:
    """Count this start, then read what it shall do. Without a script nothing is counted, and nothing is at fault."""
    if not script_file(model_file).exists():
        return Script(), 1
    # One appended byte, and where it came to lie: two starts at the same moment get two numbers.
    with starts_file(model_file).open("ab", buffering=0) as counted:
        counted.write(b".")
        start = counted.tell()
    return parse_script(script_file(model_file).read_text(), start=start), start
