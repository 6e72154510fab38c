"""One person's conversation at a terminal. Owns what it is about: session, model, tools, files to go along, totals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from app.cli.chat.files import Attachment, with_attachments
from app.cli.chat.person import allows
from app.cli.chat.screen import TurnScreen
from app.client.client import Client, new_session_id
from app.client.events import ApprovalAsked, Event, TurnDone
from app.client.shapes import Model, Session


@dataclass
class Totals:
    """What this chat has come to; times in seconds."""

    turns: int = 0
    tokens_input: int = 0
    tokens_generated: int = 0
    generation_time: float = 0.0
    last: TurnDone | None = None

    def add(self, done: TurnDone) -> None:
        """Count a turn."""
        self.turns += 1
        self.tokens_input += done.tokens_input
        self.tokens_generated += done.tokens_generated
        self.generation_time += done.generation_time
        self.last = done


@dataclass
class Talk:
    """Who talks to which AirLab about what."""

    client: Client
    console: Console
    session_id: str
    model: str | None = None
    """Asked for with each message; None: the one that is current."""
    tools: bool | None = None
    """Whether models may use tools; None: as the conversation's own settings say, else not."""
    settings: dict[str, Any] = field(default_factory=dict)
    attached: list[Attachment] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    """As seen last."""
    listed: list[Session] = field(default_factory=list)
    """Conversations as listed last: they may be named by number."""
    totals: Totals = field(default_factory=Totals)
    reasoning: str = ""
    """What the model thought aloud before its last answer."""
    leaving: bool = False

    def say(self, text: str) -> None:
        """Send a message with the files that wait, and show what comes of it."""
        self.follow(
            self.client.send_message(with_attachments(text, self.attached), session_id=self.session_id, **self.asked)
        )
        self.attached = []

    @property
    def asked(self) -> dict[str, Any]:
        """What goes along with every turn."""
        chosen = {"model": self.model, "enable_tools": self.tools}
        given = {name: value for name, value in chosen.items() if value is not None}
        return {**self.settings, **given, "approvals": True}

    def follow(self, events: Iterator[Event]) -> None:
        """Show a turn; Ctrl-C cancels it.

        Raises:
            AirLabError: It failed.
        """
        with TurnScreen(self.console) as screen:
            try:
                with closing(events):  # type: ignore[type-var] # a generator, which is closed to cancel the turn
                    for event in events:
                        screen.show(event)
                        if isinstance(event, ApprovalAsked):
                            screen.pause()
                            self._answer(event)
                        elif isinstance(event, TurnDone):
                            self.totals.add(event)
            except KeyboardInterrupt:
                screen.cancelled()
            finally:
                self.reasoning = screen.reasoning or self.reasoning

    def begin(self, session_id: str | None = None) -> None:
        """Go on in another conversation; a new one without an id."""
        self.session_id = session_id or new_session_id()
        self.reasoning = ""

    def _answer(self, asked: ApprovalAsked) -> None:
        granted = allows(self.console, words=asked.words, arguments=asked.arguments, limit_s=asked.limit_s)
        self.client.answer_approval(asked.id, grant=granted)
