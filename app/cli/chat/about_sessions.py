"""Slash commands about this conversation and the others that AirLab keeps."""

from __future__ import annotations

import time
from itertools import islice

from rich.table import Table
from rich.text import Text

from app.cli.chat.clean import clean, one_line
from app.cli.chat.markdown import markdown
from app.cli.chat.paths import new_file
from app.cli.chat.talk import Talk
from app.client.client import Format
from app.client.shapes import Conversation, Session, StoredMessage
from app.errors import AirLabError, AnsweredError

_MOST_LISTED = 20
_SHOWN_MESSAGES = 4
_SUFFIXES: dict[Format, str] = {"text": ".txt", "markdown": ".md", "json": ".json", "jsonl": ".jsonl"}


def retry(talk: Talk, _: str) -> None:
    """``/retry``: answer the last message again; take a turn that was broken off up again."""
    turns = talk.client.session(talk.session_id).turns
    if turns and turns[-1].get("status") != "done":
        talk.follow(talk.client.resume(talk.session_id, **talk.asked))
    else:
        talk.follow(talk.client.regenerate(talk.session_id, **talk.asked))


def undo(talk: Talk, _: str) -> None:
    """``/undo``: take the last message and its answer back."""
    left = talk.client.undo(talk.session_id)
    talk.console.print(Text(f"taken back: {one_line(left.undone or '', 100)}"))


def fork(talk: Talk, _: str) -> None:
    """``/fork``: go on in a copy."""
    copy = talk.client.fork_session(talk.session_id)
    talk.begin(copy.session_id)
    talk.console.print(Text(f"you go on in a copy: {clean(copy.session_id)}"))


def reset(talk: Talk, _: str) -> None:
    """``/reset``: begin anew; what was said stays stored."""
    talk.client.reset(talk.session_id)
    talk.console.print("a fresh start; what was said stays stored")


def new(talk: Talk, _: str) -> None:
    """``/new``: begin another conversation."""
    talk.begin()
    talk.console.print("another conversation")


def sessions(talk: Talk, argument: str) -> None:
    """``/sessions``: list conversations, newest first."""
    talk.listed = list(islice(talk.client.sessions(query=argument or None), _MOST_LISTED))
    if not talk.listed:
        talk.console.print("none with these words" if argument else "none yet")
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("messages", justify="right", no_wrap=True)
    table.add_column("changed", no_wrap=True)
    for number, session in enumerate(talk.listed, 1):
        style = "bold" if session.session_id == talk.session_id else ""
        row = (str(number), title(session), str(session.message_count), _when(session.updated_ms))
        table.add_row(*(Text(cell) for cell in row), style=style)
    talk.console.print(table)
    talk.console.print("/open NUMBER goes on in one of them", style="dim")


def open_session(talk: Talk, argument: str) -> None:
    """``/open``: go on in another conversation, which is shown to its end."""
    if not argument:
        raise AirLabError("/open takes a number of /sessions, or an id")
    session_id = argument
    if argument.isascii() and argument.isdecimal() and 1 <= int(argument) <= len(talk.listed):
        session_id = talk.listed[int(argument) - 1].session_id
    found = talk.client.session(session_id)
    talk.begin(session_id)
    show_end(talk, found)


def show_end(talk: Talk, found: Conversation) -> None:
    """The last messages of a conversation."""
    said = [message for message in found.messages if _visible(message)]
    talk.console.print(Text(f"{title(found.session)}, {len(said)} messages", style="bold"))
    for message in said[-_SHOWN_MESSAGES:]:
        if message.role == "user":
            talk.console.print(Text(f"> {clean(message.content)}", style="cyan"))
        else:
            talk.console.print(markdown(message.content))


def name(talk: Talk, argument: str) -> None:
    """``/name``: name this conversation."""
    if not argument:
        raise AirLabError("/name takes a name")
    try:
        talk.client.change_session(talk.session_id, name=argument)
    except AnsweredError as exc:
        if exc.status == 404:
            raise AirLabError("there is nothing to name yet: say something first") from exc
        raise
    talk.console.print(Text(f"named {clean(argument)}"))


def export(talk: Talk, argument: str) -> None:
    """``/export``: write this conversation to a file that is not there yet."""
    first, _, rest = argument.partition(" ")
    given: Format | None = next((each for each in _SUFFIXES if each == first), None)
    file = new_file(
        rest.strip() if given else argument, named_after=talk.session_id, suffix=_SUFFIXES[given or "markdown"]
    )
    by_suffix: dict[str, Format] = {suffix: each for each, suffix in _SUFFIXES.items()}
    kind = given or by_suffix.get(file.suffix, "markdown")
    pieces = talk.client.export([talk.session_id], format=kind, tools=True)
    try:
        with file.open("xb") as out:
            out.writelines(pieces)
    except OSError as exc:
        raise AirLabError(f"{file} cannot be written: {exc.strerror}") from exc
    talk.console.print(Text(f"written: {clean(str(file))}"))


def export_ft(talk: Talk, argument: str) -> None:
    """``/export-ft``: write training data, of this conversation or of all."""
    first, _, rest = argument.partition(" ")
    everything = first == "all"
    named_after = "training" if everything else f"{talk.session_id}-training"
    file = new_file(rest.strip() if everything else argument, named_after=named_after, suffix=".jsonl")
    try:
        count = talk.client.export_for_finetuning(file, [] if everything else [talk.session_id])
    except OSError as exc:
        raise AirLabError(f"{file} cannot be written: {exc.strerror}") from exc
    talk.console.print(Text(f"written: {clean(str(file))}, {count} conversation{'' if count == 1 else 's'}"))


def title(session: Session) -> str:
    """What a conversation is called."""
    return one_line(session.name or session.session_id, 60)


def _visible(message: StoredMessage) -> bool:
    return message.role == "user" or (message.role == "assistant" and not message.tool_calls)


def _when(updated_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(updated_ms / 1000))
