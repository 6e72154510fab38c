"""The line one types on: history, completion, several lines, paste, and a status line below."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from app.cli.chat.clean import one_line
from app.cli.chat.commands import COMMANDS
from app.cli.chat.talk import Talk

_STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "sign": "bold fg:ansicyan"})
_PATHS = frozenset({"file"})


def make_prompt(talk: Talk) -> PromptSession[str]:
    """A prompt for this talk."""
    return PromptSession(
        FormattedText([("class:sign", "> ")]),
        multiline=True,
        prompt_continuation="  ",
        history=_history(),
        completer=Slash(talk),
        complete_while_typing=True,
        key_bindings=_keys(),
        bottom_toolbar=lambda: FormattedText([("class:bottom-toolbar", status(talk))]),
        style=_STYLE,
        # The answer scrolls: a menu that reserved more lines would push it up each time.
        reserve_space_for_menu=5,
    )


def status(talk: Talk) -> str:
    """The line below the prompt."""
    model = talk.model or next((model.key for model in talk.models if model.current), "no model")
    files = f" · {len(talk.attached)} file{'s' if len(talk.attached) > 1 else ''}" if talk.attached else ""
    used = f" · {talk.totals.last.tokens_total} tokens" if talk.totals.last else ""
    tools = " · tools" if talk.tools else ""
    return f"{one_line(model, 30)} · {one_line(talk.session_id, 30)}{tools}{files}{used} · /help"


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    """What was typed before, for this user's eyes only; in memory where the folder cannot be made."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(home) / "airlab" / "chat_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


class Slash(Completer):
    """Completes slash commands, and what follows those that take a name or a path."""

    def __init__(self, talk: Talk) -> None:
        """Names are those that the talk has seen last: completing asks nobody."""
        self._talk = talk
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What could stand at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            yield from (_completion(each, name, COMMANDS[each].help) for each in COMMANDS if each.startswith(name))
        elif name in _PATHS:
            yield from self._paths.get_completions(Document(argument, len(argument)), complete_event)
        else:
            yield from (_completion(each, argument) for each in self._values(name) if each.startswith(argument))

    def _values(self, name: str) -> list[str]:
        match name:
            case "model":
                return [model.key for model in self._talk.models]
            case "open":
                return [session.session_id for session in self._talk.listed]
            case "tools":
                return ["on", "off", "server on", "server off"]
            case "export":
                return ["text", "markdown", "json", "jsonl"]
        return []


def _completion(text: str, begun: str, meta: str = "") -> Completion:
    return Completion(text, start_position=-len(begun), display_meta=meta)
