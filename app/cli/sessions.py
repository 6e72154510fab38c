"""``airlab sessions`` and ``airlab export``: they ask the running AirLab over HTTP, like any other client.

With both keys in the environment the use key is taken: sessions belong to a key, and that is the one people chat with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from app.cli.main import DONE
from app.cli.remote import connected, read
from app.cli.tools import printable_lines
from app.devices.ask import printable
from app.errors import AirLabError

_PAGE = 200


def takes(name: str, group: argparse.ArgumentParser) -> None:
    """Add what ``airlab sessions`` or ``airlab export`` takes."""
    if name == "export":
        _takes_export(group)
        return
    actions = group.add_subparsers(required=True, metavar="ACTION")
    listed = _action(actions, "list", "listing", "list sessions, the last used first")
    listed.add_argument("--search", metavar="WORDS", help="those in which all these words occur")
    listed.add_argument("--pinned", action="store_true", help="pinned ones only")
    listed.add_argument("--limit", type=int, default=50, help="how many (50)")
    _action(actions, "show", "show", "print a conversation").add_argument("session", help="its id")
    renamed = _action(actions, "rename", "rename", "give a session a name")
    renamed.add_argument("session", help="its id")
    renamed.add_argument("name", help="what it is to be called")
    removed = _action(actions, "rm", "remove", "remove sessions with all that was said in them")
    removed.add_argument("session", nargs="+", help="their ids")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str, text: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    action.add_argument("--json", action="store_true", help="print JSON")
    return _does(action, does)


def _takes_export(export: argparse.ArgumentParser) -> None:
    formats = ("jsonl", "json", "markdown", "text")
    _does(export, "export").add_argument("session", nargs="*", help="ids; all sessions without any")
    export.add_argument("--format", choices=formats, default="jsonl", help="jsonl, one conversation a line, if unsaid")
    export.add_argument("--output", type=Path, metavar="FILE", help="write here, in one step at the end; else print")
    export.add_argument("--since", metavar="DAY", help="only what changed on or after that day, such as 2026-11-01")
    export.add_argument("--pinned", action="store_true", help="pinned sessions only")
    export.add_argument("--all-branches", action="store_true", help="every branch, not only the active one")
    export.add_argument("--tools", action="store_true", help="with tool calls and their results")
    export.add_argument("--reasoning", action="store_true", help="with what models thought aloud")
    export.add_argument("--system", action="store_true", help="with the system prompt")


def _does(command: argparse.ArgumentParser, does: str) -> argparse.ArgumentParser:
    command.set_defaults(does=f"sessions:{does}")
    command.add_argument("--url", help="the running AirLab (else from the manifest and the environment)")
    return command


def listing(options: argparse.Namespace) -> int:
    """Print the sessions, a line each."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"q": options.search, "pinned": True if options.pinned else None}
    with connected(options, as_user=True) as client:
        cursor = None
        while len(found) < options.limit:
            asked = {**query, "cursor": cursor, "limit": min(_PAGE, options.limit - len(found))}
            params = {name: value for name, value in asked.items() if value is not None}
            page = read(client.get("/sessions", params=params))
            found += page["sessions"]
            if (cursor := page["next_cursor"]) is None:
                break
    found = found[: options.limit]
    if options.json:
        print(json.dumps(found))
        return DONE
    for row in found:
        at = datetime.fromtimestamp(row["updated_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        pin = "*" if row["pinned"] else " "
        name = f"  {printable(row['name'])}" if row["name"] else ""
        print(f"{pin} {at}Z {row['message_count']:5} {printable(row['session_id'])}{name}")
        for match in row.get("matches", ()):
            print(f"      {printable(match['snippet'])}")
    return DONE


def show(options: argparse.Namespace) -> int:
    """Print a conversation: its active branch as text, or all that is known of it as JSON."""
    with connected(options, as_user=True) as client:
        if options.json:
            print(json.dumps(read(client.get(_path(options.session)))))
            return DONE
        answer = client.get(f"{_path(options.session)}/export", params={"format": "text", "tools": True})
        if answer.is_error:
            read(answer)
    print(printable_lines(answer.text), end="")
    return DONE


def rename(options: argparse.Namespace) -> int:
    """Give a session a name."""
    with connected(options, as_user=True) as client:
        changed = read(client.patch(_path(options.session), json={"name": options.name}))
    said = f"{printable(options.session)} is called {printable(changed['name'])}"
    print(json.dumps(changed) if options.json else said)
    return DONE


def remove(options: argparse.Namespace) -> int:
    """Remove sessions; stops at the first that cannot be removed."""
    with connected(options, as_user=True) as client:
        for session in options.session:
            answer = read(client.delete(_path(session)))
            print(json.dumps(answer) if options.json else f"{printable(session)} is removed")
    return DONE


def export(options: argparse.Namespace) -> int:
    """Write an export to a file, or to standard output; a file is there whole or not at all."""
    asked: dict[str, Any] = {
        "format": options.format,
        "session_id": options.session or None,
        "since": options.since,
        "pinned": True if options.pinned else None,
        "branches": "all" if options.all_branches else None,
        **{name: True if getattr(options, name) else None for name in ("tools", "reasoning", "system")},
    }
    params = {name: value for name, value in asked.items() if value is not None}
    with connected(options, as_user=True) as client, client.stream("GET", "/export", params=params) as answer:
        if answer.is_error:
            answer.read()
            read(answer)
        if options.output is None:
            _copy(answer.iter_bytes(), sys.stdout.buffer)
            return DONE
        draft = options.output.with_name(f".{options.output.name}.part")
        try:
            with draft.open("wb") as file:
                _copy(answer.iter_bytes(), file)
            draft.replace(options.output)
        except OSError as exc:
            raise AirLabError(f"{options.output} cannot be written: {exc.strerror}") from exc
        finally:
            draft.unlink(missing_ok=True)
    print(f"written to {options.output}", file=sys.stderr)
    return DONE


def _copy(pieces: Iterable[bytes], file: BinaryIO) -> None:
    file.writelines(pieces)
    file.flush()


def _path(session: str) -> str:
    return f"/sessions/{quote(session, safe='')}"
