"""One turn on a terminal: streamed Markdown, thinking folded to a line, tool calls as they happen.

Owns what of the turn is still moving; what is over has been printed and scrolls away like anything else.
"""

from __future__ import annotations

import json
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from app.cli.chat.clean import clean, one_line
from app.cli.chat.markdown import Tail, markdown, split_settled
from app.client.events import (
    ApprovalAsked,
    Cut,
    Event,
    Notice,
    Reasoning,
    Retrying,
    Token,
    ToolEnded,
    ToolStarted,
    TurnDone,
    TurnOpened,
    Waiting,
)
from app.units import format_duration

_REFRESHES_PER_S = 8
_MARKS = {"ok": ("✓", "green"), "error": ("✗", "red"), "denied": ("✗", "yellow")}


class TurnScreen:
    """Shows the events of one turn; leaving the block prints what is still moving."""

    def __init__(self, console: Console) -> None:
        """Nothing is shown yet."""
        self.reasoning = ""
        """All that the model has thought aloud."""
        self._console = console
        self._live: Live | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._status = "waiting for an answer"
        self._text = ""
        self._thought = ""
        self._since_s = time.monotonic()
        self._has_text = False
        self._is_retrying = False

    def __enter__(self) -> TurnScreen:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._settle()
        self.pause()

    def pause(self) -> None:
        """Leave the terminal to somebody else, until the next event."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def cancelled(self) -> None:
        """Say that the person broke it off."""
        self._note("cancelled; /retry asks it again")
        self.pause()

    def show(self, event: Event) -> None:
        """Show what happened."""
        self._start()
        match event:
            case Token(text=text):
                self._fold_thought()
                self._text += text
                if "\n" in text:
                    self._print_settled()
            case Reasoning(text=text):
                self._settle_text()
                if not self._thought:
                    self._say("thinking")
                self._thought += text
                self.reasoning += text
            case Waiting(model=model, state=state, ahead=ahead, eta_s=eta_s):
                queued = f", {ahead} before you" if ahead else ""
                queued += f", about {format_duration(eta_s)}" if eta_s else ""
                self._say(f"{one_line(model, 40)} is {one_line(state, 20)}{queued}")
            case TurnOpened():
                self._begin_again()
            case Retrying(why=why, wait_s=wait_s):
                self._settle()
                self._is_retrying = True
                self._say(f"trying again after {format_duration(wait_s)}: {one_line(why)}")
            case ToolStarted() | ToolEnded() | ApprovalAsked():
                self._settle()
                self._show_tool(event)
            case Notice(message=message):
                self._note(f"note: {clean(message)}")
            case Cut(messages=messages, tokens=tokens):
                self._note(f"note: {messages} older messages ({tokens} tokens) were not shown to the model")
            case TurnDone():
                self._settle()
                self.pause()
                self._console.print(summary(event))
                self._console.print()
            case _:
                pass

    def _show_tool(self, event: ToolStarted | ToolEnded | ApprovalAsked) -> None:
        if isinstance(event, ToolStarted):
            name, arguments = one_line(event.name, 60), in_words(event.arguments)
            self._console.print(Text.assemble(("→ ", "cyan"), (name, "bold"), f"({arguments})"))
            self._say(f"{name} runs")
        elif isinstance(event, ToolEnded):
            mark, style = _MARKS.get(event.status, ("?", "yellow"))
            took = format_duration(event.duration_s)
            head = Text.assemble((f"{mark} ", style), one_line(event.name, 60), (f"  {event.status}, {took}", "dim"))
            self._console.print(head)
            words = one_line(event.result, max(20, self._console.width - 3))
            self._console.print(Text(f"  {words}", style="dim", no_wrap=True, overflow="ellipsis"))
            self._say("waiting for an answer")

    def _begin_again(self) -> None:
        if self._is_retrying and (self._has_text or self._text or self._thought):
            self._settle()
            self._note("AirLab is back; the answer from its beginning:")
            self.reasoning, self._has_text = "", False
        self._is_retrying = False
        self._say("waiting for an answer")

    def _note(self, words: str) -> None:
        self._settle()
        self._console.print(Text(words, style="yellow"))

    def _say(self, status: str) -> None:
        self._status, self._since_s = status, time.monotonic()

    def _start(self) -> None:
        if self._live is None:
            self._live = Live(
                get_renderable=self._moving,
                console=self._console,
                refresh_per_second=_REFRESHES_PER_S,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start()

    def _moving(self) -> RenderableType:
        """What is drawn again and again; called by Rich's own thread, so it changes nothing."""
        if self._text:
            return Group("", Tail(self._text)) if self._has_text else Tail(self._text)
        words = f", {len(self._thought.split())} words" if self._thought else ""
        passed = format_duration(int(time.monotonic() - self._since_s)) if time.monotonic() - self._since_s > 1 else ""
        line = Text(f"{self._status}{words} {passed}", style="dim", no_wrap=True, overflow="ellipsis")
        self._spinner.update(text=line)
        return self._spinner

    def _settle(self) -> None:
        self._fold_thought()
        self._settle_text()

    def _settle_text(self) -> None:
        rest, self._text = self._text, ""
        self._print(rest)

    def _print_settled(self) -> None:
        settled, rest = split_settled(self._text)
        if settled:
            self._text = rest
            self._print(settled)

    def _print(self, text: str) -> None:
        if text.strip():
            if self._has_text:
                self._console.print()
            self._console.print(markdown(text))
            self._has_text = True

    def _fold_thought(self) -> None:
        if self._thought:
            words, took = len(self._thought.split()), format_duration(time.monotonic() - self._since_s)
            self._thought = ""
            self._console.print(Text(f"▸ thought for {took}, {words} words; /thinking shows them", style="dim"))


def summary(done: TurnDone) -> Text:
    """The line below an answer."""
    ends = {"length": ", cut at max_tokens", "tool_limit": ", after the last round of tools"}
    words = (
        f"{one_line(done.model, 40)}, {done.tokens_generated} tokens in {format_duration(done.generation_time)}"
        f" ({done.tokens_per_second:.0f}/s){ends.get(done.finish_reason, '')}"
    )
    return Text(words, style="dim")


def in_words(arguments: str) -> str:
    """A call's arguments as a person would write them."""
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError):
        return one_line(arguments)
    if not isinstance(values, dict):
        return one_line(arguments)
    return one_line(", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items()))
