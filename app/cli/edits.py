"""``airlab models add|rm`` and ``airlab tools add|rm``: edit the manifest in place, and print the lines that changed.

They ask nothing of a running AirLab, which sees the new file by itself.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError

from app.cli.main import DONE
from app.engines.native import NativeEngine
from app.fleet.refusals import cannot_start
from app.live.guards import builtin_tools
from app.live.inputs import first_snapshot, probe
from app.live.snapshot import Snapshot
from app.manifest import changes
from app.manifest.load import Loaded
from app.manifest.schema import ModelSection, Tuning
from app.manifest.write import rewrite
from app.settings import Settings, read_settings

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def takes(name: str, group: argparse.ArgumentParser) -> None:
    """Give ``airlab models`` and ``airlab tools`` the commands below them."""
    commands = group.add_subparsers(required=True, metavar="COMMAND")
    if name == "models":
        _command(commands, "list", "listing:models", "list the models, and what is known of their files")
        add = _command(commands, "add", "edits:add_model", "add a model to the manifest")
        add.add_argument("key", help="its name in the manifest, in URLs and in requests")
        _takes_fields(add)
        pull = commands.add_parser(
            "pull",
            help="download a model",
            description="Download a model, or go on with it; the running AirLab does it.",
        )
        pull.set_defaults(does="pulling:pull")
        pull.add_argument("model", help="its key")
        pull.add_argument("--cancel", action="store_true", help="end its download instead; what came is kept")
        pull.add_argument("--url", help="the running AirLab (else from the manifest and the environment)")
        pull.add_argument("--json", action="store_true", help="print JSON, at the end")
        remove = _command(commands, "rm", "edits:remove_model", "remove a model from the manifest; its file stays")
        remove.add_argument("key", help="its key")
    else:
        _command(commands, "list", "listing:tools", "list the tools, and which of them models are offered")
        _command(commands, "add", "edits:add_tool", "offer one more tool").add_argument("name", help="its name")
        _command(commands, "rm", "edits:remove_tool", "offer one tool less").add_argument("name", help="its name")
        text = "call a tool of the running AirLab, under the same rules as a model"
        call = commands.add_parser("call", help=text, description=f"{text[0].upper()}{text[1:]}.")
        call.set_defaults(does="tools:call")
        call.add_argument("name", help="its name")
        call.add_argument(
            "arguments", nargs="*", metavar="KEY=VALUE", help="its arguments; a key given twice makes a list"
        )
        call.add_argument("--url", help="the running AirLab (else from the manifest and the environment)")
        call.add_argument("--json", action="store_true", help="print JSON")


def add_model(options: argparse.Namespace) -> int:
    """Add a model; says so where its file cannot be used yet."""
    key, fields = options.key, {name: getattr(options, name) for name in _fields() if hasattr(options, name)}
    settings, snapshot = _edit(options, f"added models.{key}", lambda loaded: changes.add_model(loaded, key, fields))
    if (error := cannot_start(snapshot.models[key], settings.home)) is not None:
        print(error.message)
    return DONE


def remove_model(options: argparse.Namespace) -> int:
    """Remove a model."""
    key = options.key
    _edit(options, f"removed models.{key}", lambda loaded: changes.remove_model(loaded, key))
    return DONE


def add_tool(options: argparse.Namespace) -> int:
    """Offer one more tool."""
    name, known = options.name, builtin_tools()
    _edit(options, f"added {name} to tools.builtin", lambda loaded: changes.add_tool(loaded, name, known))
    return DONE


def remove_tool(options: argparse.Namespace) -> int:
    """Offer one tool less."""
    name, known = options.name, builtin_tools()
    _edit(options, f"removed {name} from tools.builtin", lambda loaded: changes.remove_tool(loaded, name, known))
    return DONE


def _edit(options: argparse.Namespace, what: str, change: Callable[[Loaded], str]) -> tuple[Settings, Snapshot]:
    """Change the file and print its changed lines; what would be in force then. Raises as ``rewrite`` does."""
    settings = read_settings(manifest=options.manifest)
    before: list[str] = []
    then: list[Snapshot] = []

    def noting(loaded: Loaded) -> str:
        before.append(loaded.text)
        return change(loaded)

    def check(loaded: Loaded) -> None:
        host = probe(NativeEngine(settings.run_dir, settings.llama_server_path), settings.launcher)
        then.append(first_snapshot(loaded, settings, host))

    after = rewrite(settings.manifest, noting, check=check)
    print(f"{settings.manifest}: {what}")
    for line in _changed_lines(before[-1], after.text):
        print(f"  {line}")
    guarded = "; what policy.reload_guard is about waits until it is confirmed"
    print(f"a running AirLab picks this up by itself{guarded if after.manifest.policy.reload_guard else ''}")
    return settings, then[-1]


def _changed_lines(before: str, after: str) -> Iterator[str]:
    """The lines that went, with a minus, and those that came, with a plus."""
    _, _, *lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    for line in lines:
        if not line.startswith("@@"):
            # Printed to terminals: what cannot be shown must not steer them.
            yield "".join(char if char.isprintable() else "\ufffd" for char in line)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(does=does)
    command.add_argument("--manifest", type=Path, help="the manifest (AIRLAB_MANIFEST, else airlab.yaml)")
    if name == "list":
        command.add_argument("--json", action="store_true", help="print JSON")
    return command


# A model's settings as options.


def _fields() -> list[str]:
    """The settings of a model that a command line can give, its own before those of every profile, too."""
    fields = ModelSection.model_fields
    given = [name for name, field in fields.items() if get_origin(field.annotation) is not dict and name != "remote"]
    return sorted(given, key=lambda name: name in Tuning.model_fields)


def _takes_fields(command: argparse.ArgumentParser) -> None:
    """One option for each setting, such as ``--context-length 8k``; those that are left out stay unsaid."""
    for name in _fields():
        field = ModelSection.model_fields[name]
        option = "--" + {"aliases": "alias", "adapters": "adapter"}.get(name, name).replace("_", "-")
        text = (field.description or "").replace("%", "%%")
        if field.annotation is bool:
            command.add_argument(option, dest=name, action="store_true", default=argparse.SUPPRESS, help=text)
        elif isinstance(field.default, list):
            text += " Can be given several times."
            command.add_argument(
                option, dest=name, action="append", metavar="VALUE", default=argparse.SUPPRESS, help=text
            )
        else:
            reads = _reader(name)
            command.add_argument(option, dest=name, type=reads, metavar="VALUE", default=argparse.SUPPRESS, help=text)


def _reader(name: str) -> Callable[[str], Any]:
    """Makes a number of an argument where the setting takes one: ``8192`` is a number of tokens, but a fine name."""

    def read(text: str) -> Any:
        if not _NUMBER.fullmatch(text):
            return text
        number = float(text) if "." in text else int(text)
        try:
            ModelSection.model_validate({name: number})
        except ValidationError as exc:
            return text if exc.errors()[0]["type"] == "string_type" else number
        return number

    return read
