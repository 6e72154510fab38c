"""The chat on a terminal: the menu, then lines, each a message or a slash command, until one leaves."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from app.cli.chat.about_server import show_menu, use_model
from app.cli.chat.about_sessions import show_end
from app.cli.chat.clean import clean
from app.cli.chat.commands import run_command
from app.cli.chat.menu import chosen, usable
from app.cli.chat.person import answering, unechoed
from app.cli.chat.prompt import make_prompt
from app.cli.chat.talk import Talk
from app.errors import AirLabError, AnsweredError


def converse(talk: Talk, *, asks_model: bool) -> None:
    """Talk until the person leaves.

    Args:
        talk: About what.
        asks_model: Whether to begin with the menu of models, where there is a choice.

    Raises:
        AirLabError: AirLab cannot be reached, or refuses, at the start.
    """
    with unechoed():
        talk.models = talk.client.models()
        _welcome(talk)
        if asks_model and len(usable(talk.models)) > 1:
            _choose(talk)
        _talk_on(talk)


def _talk_on(talk: Talk) -> None:
    prompt = make_prompt(talk)
    while not talk.leaving:
        try:
            if line := prompt.prompt().strip():
                _do(talk, line)
        except KeyboardInterrupt:
            talk.console.print("Ctrl-D or /quit leaves", style="dim")
        except EOFError:
            return


def _welcome(talk: Talk) -> None:
    talk.console.print(Text(f"AirLab at {clean(talk.client.url)}", style="bold"))
    try:
        found = talk.client.session(talk.session_id)
    except AnsweredError as exc:
        if exc.status != 404:
            raise
    else:
        show_end(talk, found)


def _choose(talk: Talk) -> None:
    show_menu(talk)
    while not talk.leaving:
        try:
            with answering():
                answer = talk.console.input("model (number or name; Enter keeps the current one): ").strip()
        except EOFError:
            answer = ""
        except KeyboardInterrupt:
            talk.console.print()
            return
        if not answer:
            return
        if answer.startswith("/"):
            _do(talk, answer)
            continue
        try:
            wanted = chosen(talk.models, answer)
            if not wanted.current or not wanted.loaded:
                use_model(talk, wanted)
        except AirLabError as exc:
            tell(talk.console, exc)
        else:
            return


def _do(talk: Talk, line: str) -> None:
    try:
        if line.startswith("/"):
            run_command(talk, line)
        else:
            talk.say(line)
    except AirLabError as exc:
        tell(talk.console, exc)
    except KeyboardInterrupt:
        talk.console.print("stopped", style="yellow")


def tell(console: Console, error: AirLabError) -> None:
    """Say what went wrong."""
    console.print(Text(clean(error.message), style="red"))
