"""AirLab for other people's programs: what its HTTP routes do, as methods of one class.

::

    with Client("http://127.0.0.1:8080") as airlab:
        for event in airlab.send_message("Hello.", session_id="mine"):
            if isinstance(event, Token):
                print(event.text, end="")
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from app.client.events import Event, Retrying, TurnDone, read_event
from app.client.shapes import (
    Approval,
    CommandAnswer,
    Conversation,
    Health,
    Model,
    Session,
    Switched,
    conversation,
    shaped,
)
from app.client.stream import read_events
from app.client.wire import LaterError, Patience, Wire
from app.errors import AnsweredError, ServerAwayError

Format = Literal["jsonl", "json", "markdown", "text"]
Messages = str | Sequence[Mapping[str, Any]]


class Client:
    """A running AirLab. Its methods may be called from several threads; leaving a ``with`` block closes it.

    Every method raises ``ServerAwayError`` when nobody answers for ``patience_s`` seconds, and ``AnsweredError``, with
    AirLab's own words, when it says no.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        key: str | None = None,
        *,
        admin_key: str | None = None,
        patience_s: float = 30.0,
        told: Callable[[Retrying], None] = lambda _: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to nobody yet.

        Args:
            url: Where AirLab serves.
            key: The key that may use models; conversations belong to it. None where AirLab has no keys.
            admin_key: The key that may also switch, load and command; ``key`` where there is none.
            patience_s: How long an AirLab that is away is waited for, in seconds.
            told: Hears of each such wait; ``send_message`` and its like yield them in place of that.
            pause: Waits.
        """
        self._wire = Wire(url, key, admin_key, patience_s=patience_s, told=told, pause=pause)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where AirLab serves."""
        return self._wire.url

    def close(self) -> None:
        """Close the connections; turns that run are cancelled."""
        self._wire.close()

    # The server and its models

    def health(self) -> Health:
        """Whether AirLab is well, from memory, at once."""
        return shaped(Health, self._wire.ask("GET", "/health"))

    def models(self, *, include_finetuned: bool = True) -> list[Model]:
        """Every model; the one that serves when a request names none is ``current``."""
        body = self._wire.ask("GET", "/models", params={"include_finetuned": include_finetuned})
        return [shaped(Model, {**model, "current": model["key"] == body["current"]}) for model in body["models"]]

    def fit(self, model_key: str, *, within_s: int | None = None) -> Mapping[str, Any] | None:
        """Whether a model would fit into the memory that is free now: ``fits`` and the arithmetic; None: not known.

        For a model that is not on disk AirLab asks a hub, for at most ``within_s`` seconds (10 unless told).
        """
        path, params = f"/models/{quote(model_key, safe='')}/fit", {"within_s": within_s}
        try:
            found = self._wire.ask("GET", path, params=params, waits=False)
        except (AnsweredError, LaterError):
            return None
        return found if isinstance(found, dict) else None

    def switch_model(self, model_key: str) -> Switched:
        """Make a model the current one; returns once it is loaded, however long that takes."""
        body = {"model_key": model_key}
        return shaped(Switched, self._wire.ask("POST", "/model/switch", body=body, admin=True))

    def send_command(self, command: str, value: str | float | None = None) -> CommandAnswer:
        """``system``, ``layers``, ``mem`` or ``tools``: read it, or with ``value`` set it."""
        body = {"command": command} if value is None else {"command": command, "value": value}
        return shaped(CommandAnswer, self._wire.ask("POST", "/command", body=body, admin=True))

    # Turns

    def send_message(self, messages: Messages, *, session_id: str = "default", **settings: Any) -> Iterator[Event]:
        """Say something, and get what happens until the turn is done; closing the iterator cancels the turn.

        While AirLab is away a ``Retrying`` is yielded, and the same message is sent again under the same idempotency
        key: no turn is ever doubled. After it, what came of the answer before counts no more.

        Args:
            messages: What is new, as text; or messages as POST /chat takes them.
            session_id: In which conversation.
            settings: Further fields of POST /chat: ``model``, ``enable_tools``, ``approvals``, ``temperature`` ...

        Raises:
            AnsweredError: The turn was refused, or failed; status None: after it had begun.
        """
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        return self._turn("/chat", {"messages": said, "session_id": session_id, **settings})

    def regenerate(self, session_id: str, message_id: int | None = None, **settings: Any) -> Iterator[Event]:
        """Answer again, the last message or the one named; the answer before stays as another branch."""
        named = {} if message_id is None else {"message_id": message_id}
        return self._turn(f"{_session(session_id)}/regenerate", {**named, **settings})

    def edit(self, session_id: str, message_id: int, content: str, **settings: Any) -> Iterator[Event]:
        """Say a message in other words: a new branch begins there."""
        return self._turn(f"{_session(session_id)}/edit", {"message_id": message_id, "content": content, **settings})

    def resume(self, session_id: str, **settings: Any) -> Iterator[Event]:
        """Take the last turn up again, where it did not reach its end."""
        return self._turn(f"{_session(session_id)}/resume", settings)

    def reset(self, session_id: str) -> None:
        """Begin an empty branch; what was said stays stored."""
        self._wire.ask("POST", "/chat", body={"messages": [], "session_id": session_id})

    def _turn(self, path: str, settings: Mapping[str, Any]) -> Iterator[Event]:
        patience, key = Patience(self._wire.patience_s), secrets.token_urlsafe(16)
        while True:
            try:
                yield from self._told_once(path, {**settings, "stream": True}, key)
            except ServerAwayError as exc:
                asked_s = exc.after_s if isinstance(exc, LaterError) else 0.0
                wait_s = patience.wait_s(exc, asked_s=asked_s)
                yield Retrying(exc.message, wait_s)
                self._wire.pause(wait_s)
            else:
                return

    def _told_once(self, path: str, body: Mapping[str, Any], key: str) -> Iterator[Event]:
        with self._wire.stream("POST", path, body=body, headers={"idempotency-key": key}) as pieces:
            for name, data in read_events(pieces):
                if name == "error":
                    error = data.get("error") or {}
                    raise AnsweredError(str(error.get("message") or "the turn failed"), code=error.get("code"))
                event = read_event(name, data)
                yield event
                if isinstance(event, TurnDone):
                    return
        raise ServerAwayError(f"AirLab at {self.url} broke off before the turn had ended")

    # Calls that wait for a person

    def approvals(self) -> list[Approval]:
        """The tool calls that wait for a person: those that this key asked for."""
        return [shaped(Approval, approval) for approval in self._wire.ask("GET", "/approvals")["approvals"]]

    def answer_approval(self, approval_id: str, *, grant: bool) -> bool:
        """Say yes or no to a call that waits; False when it waits no more."""
        try:
            self._wire.ask("POST", f"/approvals/{quote(approval_id, safe='')}", body={"grant": grant})
        except AnsweredError as exc:
            if exc.status == 404:
                return False
            raise
        return True

    # Conversations that are kept

    def sessions(self, *, query: str | None = None, pinned: bool | None = None) -> Iterator[Session]:
        """Every conversation, newest first; with ``query`` those in which all of its words stand."""
        cursor = None
        while True:
            page = self._wire.ask("GET", "/sessions", params={"q": query, "pinned": pinned, "cursor": cursor})
            yield from (shaped(Session, session) for session in page["sessions"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def session(self, session_id: str, *, whole_tree: bool = False) -> Conversation:
        """A conversation: its active branch, or the whole tree."""
        view = "tree" if whole_tree else "branch"
        return conversation(self._wire.ask("GET", _session(session_id), params={"view": view}))

    def create_session(self, session_id: str | None = None, **settings: Any) -> Session:
        """A new conversation; ``settings``: name, pinned, model, system_prompt, enable_tools, temperature ..."""
        named = {} if session_id is None else {"session_id": session_id}
        return shaped(Session, self._wire.ask("POST", "/sessions", body={**named, **settings}))

    def change_session(self, session_id: str, *, version: int | None = None, **settings: Any) -> Session:
        """Change its name, pin or settings; with ``version`` only if nobody else has meanwhile (status 412)."""
        body = self._wire.ask("PATCH", _session(session_id), body=settings, headers=_if_match(version))
        return shaped(Session, body)

    def delete_session(self, session_id: str, *, version: int | None = None) -> None:
        """Delete a conversation with all its branches."""
        self._wire.ask("DELETE", _session(session_id), headers=_if_match(version))

    def fork_session(self, session_id: str, message_id: int | None = None, *, new_id: str | None = None) -> Session:
        """Copy the active branch, or the one up to an answer, into a new conversation."""
        given = {"message_id": message_id, "session_id": new_id}
        body = {name: value for name, value in given.items() if value is not None}
        return shaped(Session, self._wire.ask("POST", f"{_session(session_id)}/fork", body=body))

    def switch_branch(self, session_id: str, message_id: int) -> Conversation:
        """Go on with the newest branch that goes through a message."""
        body = {"message_id": message_id}
        return conversation(self._wire.ask("POST", f"{_session(session_id)}/switch", body=body))

    def undo(self, session_id: str) -> Conversation:
        """Take the last message and its answer off the active branch; both stay stored."""
        return conversation(self._wire.ask("POST", f"{_session(session_id)}/undo"))

    # Export

    def export(
        self,
        session_ids: Iterable[str] = (),
        *,
        format: Format = "jsonl",  # noqa: A002 # the route's own name for it
        pinned: bool | None = None,
        since: str | None = None,
        **options: Any,
    ) -> Iterator[bytes]:
        """Conversations as text, in pieces; ``options``: branches="all", tools, reasoning, system (True or False)."""
        filters = {"session_id": list(session_ids), "pinned": pinned, "since": since}
        with self._wire.stream("GET", "/export", params={"format": format, **filters, **options}) as pieces:
            yield from pieces

    def export_for_finetuning(self, file: Path, session_ids: Iterable[str] = (), **options: Any) -> int:
        """Write conversations to ``file`` as training data: JSONL, ``{"messages": [{"role", "content"}, ...]}``.

        The file is there once it is whole; one that was there is replaced. Without ``session_ids`` it holds all
        conversations of this key. ``options`` are those of ``export``.

        Returns:
            How many conversations it holds.

        Raises:
            OSError: The file cannot be written.
            ServerAwayError: AirLab broke off, or sent a line that is no conversation.
        """
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as partial:
            try:
                for piece in self.export(session_ids, **options):
                    partial.write(piece)
                partial.seek(0)
                count = sum(_is_conversation(line) for line in partial)
                partial.close()
                Path(partial.name).replace(file)
            except BaseException:
                Path(partial.name).unlink(missing_ok=True)
                raise
        return count


def new_session_id() -> str:
    """An id for a new conversation: it sorts by time, and nobody has it."""
    return f"chat-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _is_conversation(line: bytes) -> bool:
    try:
        if isinstance(json.loads(line)["messages"], list):
            return True
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ServerAwayError(f"what AirLab sent is no training data: {line[:80]!r}")


def _session(session_id: str) -> str:
    return f"/sessions/{quote(session_id, safe='')}"


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"if-match": f'"{version}"'}
