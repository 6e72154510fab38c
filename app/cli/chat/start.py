"""``airlab chat``: on a terminal a conversation, else one message and its answer."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from app.cli.chat.clean import clean
from app.cli.main import DONE, MISUSED
from app.cli.remote import own_url
from app.client.client import Client, new_session_id
from app.client.events import Retrying
from app.errors import AirLabError
from app.settings import read_settings
from app.units import MIB, format_bytes

_PATIENCE_S = 60.0
_MOST_BYTES = 4 * MIB
"""Of standard input; AirLab would refuse much less."""


def takes(parser: argparse.ArgumentParser) -> None:
    """What the command line of it is."""
    parser.add_argument("words", nargs="*", metavar="WORD", help="say this, print the answer and end")
    parser.add_argument("--url", help="the running AirLab (else from the manifest and the environment)")
    parser.add_argument("--model", help="the model that answers (else the current one)")
    parser.add_argument("--session", metavar="ID", help="go on in this conversation (else a new one)")
    parser.add_argument("--system", metavar="TEXT", help="a system prompt for what is said here")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="the longest answer, in tokens")
    parser.add_argument("--tools", action="store_true", help="let the model use tools")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def chat(options: argparse.Namespace) -> int:
    """Talk; 0 when every answer that was asked for came."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not options.words and not options.json
    if not on_terminal and not options.words and sys.stdin.isatty():
        print("airlab chat: say something: airlab chat WORDS, or let it read from a pipe", file=sys.stderr)
        return MISUSED
    with _connected(options) as client:
        if on_terminal:
            _on_terminal(client, options)
        else:
            _piped(client, options)
    return DONE


def _connected(options: argparse.Namespace) -> Client:
    settings = read_settings()
    key, admin = settings.api_key, settings.admin_key
    return Client(
        options.url or own_url(settings),
        key.get_secret_value() if key else None,
        admin_key=admin.get_secret_value() if admin else None,
        patience_s=_PATIENCE_S if sys.stdin.isatty() else 0.0,
        told=_told,
    )


def _told(retrying: Retrying) -> None:
    print(f"{clean(retrying.why)}; trying again after {retrying.wait_s:g} s", file=sys.stderr)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    given = {"system_prompt": options.system, "max_tokens": options.max_tokens}
    return {name: value for name, value in given.items() if value is not None}


def _on_terminal(client: Client, options: argparse.Namespace) -> None:
    # Here and not above: they take a quarter of a second, and a pipe needs neither.
    from rich.console import Console  # noqa: PLC0415

    from app.cli.chat.talk import Talk  # noqa: PLC0415
    from app.cli.chat.terminal import converse  # noqa: PLC0415

    talk = Talk(
        client,
        Console(highlight=False),
        options.session or new_session_id(),
        model=options.model,
        tools=options.tools or None,
        settings=_settings(options),
    )
    converse(talk, asks_model=options.model is None)


def _piped(client: Client, options: argparse.Namespace) -> None:
    from app.cli.chat.piped import answer  # noqa: PLC0415

    said = " ".join(options.words)
    if not sys.stdin.isatty():
        said = "\n\n".join(part for part in (said, _read_pipe()) if part)
    if not said.strip():
        raise AirLabError("nothing was said: standard input is empty")
    model = {} if options.model is None else {"model": options.model}
    tools = {"enable_tools": True} if options.tools else {}
    settings = {**_settings(options), **model, **tools}
    session_id = options.session or new_session_id()
    answer(client, said, session_id=session_id, settings=settings, as_json=options.json)


def _read_pipe() -> str:
    data = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise AirLabError(f"more than {format_bytes(_MOST_BYTES)} came from the pipe; that is more than a message")
    return data.decode(errors="replace").strip()
