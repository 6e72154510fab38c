"""The slash commands: one table, each command one small function, in the file of what it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from app.cli.chat import about_server, about_sessions
from app.cli.chat.clean import clean
from app.cli.chat.files import read_attachment
from app.cli.chat.paths import local_path
from app.cli.chat.talk import Talk
from app.errors import AirLabError
from app.manifest.problems import nearest
from app.units import format_bytes, format_duration


@dataclass(frozen=True, slots=True)
class Command:
    """What stands behind a slash; ``run`` gets what follows the name."""

    run: Callable[[Talk, str], None]
    takes: str
    help: str


def attach(talk: Talk, argument: str) -> None:
    """``/file``: let a text file go along with the next message."""
    if not argument:
        names = ", ".join(each.name for each in talk.attached)
        talk.console.print(f"waiting to go along: {clean(names) or 'nothing'}", markup=False)
        return
    attachment = read_attachment(local_path(argument))
    talk.attached.append(attachment)
    size = format_bytes(len(attachment.text.encode()))
    talk.console.print(f"{clean(attachment.name)} ({size}) goes along with your next message", markup=False)


def thinking(talk: Talk, _: str) -> None:
    """``/thinking``: what the model thought aloud before its last answer."""
    talk.console.print(Text(clean(talk.reasoning) or "the last answer came without thinking aloud", style="dim"))


def stats(talk: Talk, _: str) -> None:
    """``/stats``: what this chat has come to."""
    totals = talk.totals
    if totals.last is None:
        talk.console.print("nothing was answered yet")
        return
    speed = totals.tokens_generated / totals.generation_time if totals.generation_time else 0.0
    rows = {
        "answers": str(totals.turns),
        "tokens read": str(totals.tokens_input),
        "tokens written": f"{totals.tokens_generated} in {format_duration(totals.generation_time)} ({speed:.0f}/s)",
        "last": f"{totals.last.tokens_input} read, {totals.last.tokens_generated} written, {totals.last.device}",
        "conversation": talk.session_id,
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(clean(value)))
    talk.console.print(table)


def show_help(talk: Talk, _: str) -> None:
    """``/help``: every command."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, command in COMMANDS.items():
        table.add_row(Text(f"/{name} {command.takes}".rstrip(), style="bold"), Text(command.help))
    talk.console.print(table)
    talk.console.print(
        "Enter sends, Alt-Enter or Ctrl-J begins a new line, Ctrl-C stops an answer, Ctrl-D leaves.", style="dim"
    )


def leave(talk: Talk, _: str) -> None:
    """``/quit``: leave; the conversation stays in AirLab."""
    talk.leaving = True


COMMANDS: dict[str, Command] = {
    "model": Command(about_server.model, "[NAME]", "show the models, or switch to one"),
    "file": Command(attach, "[PATH]", "send a text file along with the next message"),
    "retry": Command(about_sessions.retry, "", "answer the last message again"),
    "undo": Command(about_sessions.undo, "", "take back the last message and its answer"),
    "fork": Command(about_sessions.fork, "", "go on in a copy of this conversation"),
    "reset": Command(about_sessions.reset, "", "begin anew; what was said stays stored"),
    "new": Command(about_sessions.new, "", "begin another conversation"),
    "sessions": Command(about_sessions.sessions, "[WORDS]", "list conversations, or find some"),
    "open": Command(about_sessions.open_session, "NUMBER|ID", "go on in one of them"),
    "name": Command(about_sessions.name, "TEXT", "name this conversation"),
    "thinking": Command(thinking, "", "what the model thought before it answered"),
    "tools": Command(about_server.tools, "[server] [on|off]", "let models use tools, here or at all"),
    "system": Command(about_server.system, "[TEXT]", "show or set the server's system prompt"),
    "layers": Command(about_server.layers, "[N|all]", "show or set how much of the model is on the GPU"),
    "mem": Command(about_server.mem, "", "memory of host, service and engines"),
    "health": Command(about_server.health, "", "whether AirLab is well"),
    "stats": Command(stats, "", "tokens and speed of this chat"),
    "export": Command(about_sessions.export, "[FORMAT] [FILE]", "write this conversation: text, markdown, json, jsonl"),
    "export-ft": Command(about_sessions.export_ft, "[all] [FILE]", "write training data (JSONL)"),
    "help": Command(show_help, "", "this list"),
    "quit": Command(leave, "", "leave; the conversation stays in AirLab"),
}


def run_command(talk: Talk, line: str) -> None:
    """Do what a line that begins with a slash says.

    Raises:
        AirLabError: There is no such command, or it failed.
    """
    name, _, argument = line.removeprefix("/").partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        meant = nearest(name, tuple(COMMANDS))
        raise AirLabError(f"no command /{clean(name)}; {f'did you mean /{meant}?' if meant else '/help lists them'}")
    command.run(talk, argument.strip())
