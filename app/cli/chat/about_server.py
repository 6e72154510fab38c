"""Slash commands about the server and its models."""

from __future__ import annotations

from dataclasses import replace

from rich.text import Text

from app.cli.chat.clean import clean
from app.cli.chat.loading import switch_shown
from app.cli.chat.menu import chosen, menu, usable
from app.cli.chat.talk import Talk
from app.client.shapes import Model
from app.errors import AirLabError, AnsweredError

_TOOLS = {
    True: "lets models use tools",
    False: "uses no tools (/tools on)",
    None: "uses tools where its own settings say so, else none (/tools on)",
}
_HUB_S = 1
"""For asking a hub about a model that is not on disk; the menu after this one has what took longer."""
_MOST_WEIGHED = 32
"""Models of which is asked whether they fit; with more, a menu would take its time."""


def model(talk: Talk, argument: str) -> None:
    """``/model``: show the models, or switch to one."""
    talk.models = talk.client.models()
    if argument:
        use_model(talk, chosen(talk.models, argument))
    else:
        show_menu(talk)


def show_menu(talk: Talk) -> None:
    """The models, and of those that do not run whether they would fit."""
    weighed = [model.key for model in usable(talk.models) if not model.loaded][:_MOST_WEIGHED]
    fits = {key: talk.client.fit(key, within_s=_HUB_S) for key in weighed}
    rows = [replace(model, fit=fits.get(model.key)) for model in talk.models]
    talk.console.print(menu(rows, width=talk.console.width))


def use_model(talk: Talk, wanted: Model) -> None:
    """Switch AirLab to a model; with a key that may not, ask for it with each message instead."""
    try:
        switched = switch_shown(talk.client, talk.console, wanted.key)
    except AnsweredError as exc:
        if exc.status not in {401, 403}:
            raise
        talk.model = wanted.key
        talk.console.print(Text(f"{clean(wanted.key)} answers from now on (this key may not switch it for everybody)"))
        return
    except KeyboardInterrupt:
        talk.console.print("the load goes on in AirLab")
        return
    talk.model = None
    talk.console.print(Text(clean(switched.message)))
    talk.models = talk.client.models()


def tools(talk: Talk, argument: str) -> None:
    """``/tools``: whether this conversation asks for tools, and what the server says to that."""
    match argument.lower().split():
        case []:
            pass
        case [("on" | "off") as word]:
            talk.tools = word == "on"
        case ["server", ("on" | "off") as word]:
            talk.console.print(Text(clean(talk.client.send_command("tools", word).message)))
        case _:
            raise AirLabError("/tools takes on or off, for this conversation, or server on or server off, for all")
    talk.console.print(f"this conversation {_TOOLS[talk.tools]}", markup=False)
    if not argument:
        _command(talk, "tools", "")


def system(talk: Talk, argument: str) -> None:
    """``/system``: the server's system prompt."""
    answer = talk.client.send_command("system", argument or None)
    talk.console.print(Text(clean(f"{answer.message}: {answer.current_value}")))


def layers(talk: Talk, argument: str) -> None:
    """``/layers``: layers on the GPU."""
    with talk.console.status("loading anew" if argument else "looking"):
        _command(talk, "layers", argument)


def mem(talk: Talk, _: str) -> None:
    """``/mem``: memory of host, service and engines."""
    _command(talk, "mem", "")


def health(talk: Talk, _: str) -> None:
    """``/health``: whether AirLab is well."""
    found = talk.client.health()
    style = "green" if found.status == "ok" else "yellow"
    device = f", on {clean(found.device)}" if found.device else ""
    talk.console.print(Text.assemble((found.status, style), f": {clean(found.message)}{device}"))


def _command(talk: Talk, name: str, value: str) -> None:
    talk.console.print(Text(clean(talk.client.send_command(name, value or None).message.replace("; ", "\n"))))
