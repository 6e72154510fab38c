"""The command line's outline: which commands there are, and what their errors become.

Each group of commands is a file of its own, imported when it is used: ``airlab ps`` need not load a web server.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from app.errors import AirLabError, ManifestError

DONE, FAILED, MISUSED, BAD_MANIFEST, INTERRUPTED = 0, 1, 2, 78, 130
"""Exit codes; 78 is sysexits.h's EX_CONFIG, 130 what shells give for Ctrl-C."""


def run(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code. Errors are printed to standard error, one sentence or one list."""
    parser = _parser(arguments[:1])
    options = parser.parse_args(arguments)
    module, function = options.does.split(":")
    try:
        return int(getattr(importlib.import_module(f"app.cli.{module}"), function)(options))
    except ManifestError as exc:
        print(exc.message, file=sys.stderr)
        return BAD_MANIFEST
    except AirLabError as exc:
        print(f"airlab: {exc.message}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # `airlab plan | head`
        # What is left in the buffer goes nowhere, or Python would complain about it at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser(first: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airlab", description="A self-hosted home for local language models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = _command(commands, "serve", "server:serve", "run AirLab in the foreground")
    serve.add_argument("--host", help="address to listen on (server.host)")
    serve.add_argument("--port", type=int, help="port to listen on (server.port)")
    serve.add_argument("--profile", help="take this profile, whatever the host (AIRLAB_PROFILE)")
    serve.add_argument("--strict", action="store_true", help="exit 78 when the manifest has problems at start")

    check = _command(commands, "check", "manifest:check", "say whether a manifest is right; exit 78 when it is not")
    _takes_file(check)
    plan = _command(commands, "plan", "manifest:plan", "print what would be started, with its arguments; start nothing")
    _takes_file(plan)
    plan.add_argument("--profile", help="take this profile, whatever the host (AIRLAB_PROFILE)")
    plan.add_argument("--json", action="store_true", help="print JSON")

    explain = _command(
        commands, "explain", "explain:explain", "say what a key of the manifest means, and what it takes"
    )
    explain.add_argument("key", nargs="?", default="", help="such as models.context_length; the top level without one")
    explain.add_argument("--json", action="store_true", help="print JSON")
    doctor = _command(commands, "doctor", "doctor:doctor", "say what this machine has and lacks; exit 1 at a problem")
    _takes_file(doctor)
    doctor.add_argument("--profile", help="take this profile, whatever the host (AIRLAB_PROFILE)")
    doctor.add_argument("--json", action="store_true", help="print JSON")

    launcher = _command(
        commands, "launcher", "launcher:launcher", "start containers for an AirLab that may not use Docker itself"
    )
    launcher.add_argument("--peer", type=int, help="the user id that may ask (the launcher's own)")

    chat = _command(commands, "chat", "chat.start:chat", "talk with a model, on the terminal or through a pipe")
    if first == ["chat"]:
        importlib.import_module("app.cli.chat.start").takes(chat)

    ps = _command(commands, "ps", "remote:ps", "show the models of the running AirLab and their states")
    ps.add_argument("--json", action="store_true", help="print JSON")
    load = _command(commands, "load", "remote:load", "load a model")
    load.add_argument("model", help="its key")
    load.add_argument("--beside", action="store_true", help="only where no other model has to leave for it")
    load.add_argument("--keep-alive", metavar="TIME", help="keep it so long without a request, such as 2h; -1 for ever")
    unload = _command(commands, "unload", "remote:unload", "unload a model when it has finished what it has")
    unload.add_argument("model", help="its key")
    logs = _command(commands, "logs", "logs:logs", "show what the engine of a model wrote last")
    logs.add_argument("model", help="its key")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what it writes")
    logs.add_argument("-n", "--lines", type=int, default=200, help="how many of the last lines, up to 200 (200)")
    for name, module, text in (
        ("models", "edits", "list, add and remove models"),
        ("tools", "edits", "list tools, and choose which are offered"),
        ("sessions", "sessions", "list, search, show, rename and remove conversations"),
        ("export", "sessions", "write conversations as training data, JSON, Markdown or text"),
        ("bench", "bench", "measure how fast models answer, and compare runs"),
    ):
        group = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if first == [name]:  # what it takes stands in its own file, which the others need not load
            importlib.import_module(f"app.cli.{module}").takes(name, group)
    audit = _command(commands, "audit", "tools:audit", "show the tool calls of the running AirLab, newest first")
    audit.add_argument("--limit", type=int, default=50, help="how many, up to 1000 (50)")
    audit.add_argument("--tool", help="only calls of this tool")
    audit.add_argument("--session", help="only calls in this conversation")
    audit.add_argument("--json", action="store_true", help="print JSON")
    approvals = _command(commands, "approvals", "approvals:approvals", "answer the tool calls that wait for a yes")
    approvals.add_argument("-f", "--follow", action="store_true", help="go on with those to come")
    approvals.add_argument("--json", action="store_true", help="print JSON; asks nothing")
    for command in (ps, load, unload, logs, audit, approvals):
        command.add_argument("--url", help="the running AirLab (else from the manifest and the environment)")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(does=does)
    return command


def _takes_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", nargs="?", type=Path, help="the manifest (AIRLAB_MANIFEST, else airlab.yaml)")
