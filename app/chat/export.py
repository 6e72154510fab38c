"""Conversations as text, Markdown, JSON, and as JSON lines that fine-tuning reads. Pure: rows in, text out.

A line of the last is ``{"messages": [{"role", "content"}, ...]}``: one conversation, in the order in which it was said,
and nothing in it that was not asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from app.chat.history import merged
from app.messages import Message

Format = Literal["jsonl", "json", "markdown", "text"]
MEDIA_TYPES: dict[Format, str] = {
    "jsonl": "application/jsonl",
    "json": "application/json",
    "markdown": "text/markdown; charset=utf-8",
    "text": "text/plain; charset=utf-8",
}
ENDINGS: dict[Format, str] = {"jsonl": "jsonl", "json": "json", "markdown": "md", "text": "txt"}


@dataclass(frozen=True, slots=True)
class Shown:
    """What an export holds beside what users said and what was answered."""

    tools: bool = False
    """Calls and their results."""
    reasoning: bool = False
    """What models thought aloud."""
    system: bool = False
    """The system prompt, as the first message."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One branch, root first."""

    messages: Sequence[Message]
    system_prompt: str
    message_id: int
    """Of its last answer: what ``/sessions/{id}/switch`` takes."""
    is_active: bool
    """Whether a new message would go on from there."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session, with those of its branches that are wanted; there may be none."""

    session_id: str
    name: str | None
    created_ms: int
    updated_ms: int
    conversations: Sequence[Conversation]


def rendered(session: Session, shown: Shown, form: Format) -> str:
    """A session in this format, as one piece of an export; empty where nothing of it is to be told."""
    return _RENDERERS[form](session, shown)


def parts(session: Session, form: Format) -> Iterator[Session]:
    """A session in the pieces that can be rendered one after another, so that only one is held as text."""
    if form != "jsonl":
        yield session
        return
    for conversation in session.conversations:
        yield replace(session, conversations=[conversation])


def wire_messages(conversation: Conversation, shown: Shown) -> list[dict[str, Any]]:
    """A conversation's messages in OpenAI's format.

    Users' messages in a row, left by turns that failed, are one: templates of models to be trained refuse two.
    """
    messages = merged([message for message in conversation.messages if shown.tools or message.visible])
    if shown.system and conversation.system_prompt:
        messages.insert(0, Message("system", conversation.system_prompt))
    return [_wire(message, reasoning=shown.reasoning) for message in messages]


def opening(form: Format) -> str:
    """What stands before all sessions of an export."""
    return '{"sessions": [\n' if form == "json" else ""


def between(form: Format) -> str:
    """What stands between two sessions."""
    return {"json": ",\n", "jsonl": "", "markdown": "\n---\n\n", "text": "\n\n"}[form]


def closing(form: Format) -> str:
    """What stands after all sessions."""
    return "\n]}\n" if form == "json" else ""


def _wire(message: Message, *, reasoning: bool) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if reasoning and message.reasoning:
        wire["reasoning_content"] = message.reasoning
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _jsonl(session: Session, shown: Shown) -> str:
    lines = [{"messages": wire_messages(conversation, shown)} for conversation in session.conversations]
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def _json(session: Session, shown: Shown) -> str:
    told = {
        "session_id": session.session_id,
        "name": session.name,
        "created_ms": session.created_ms,
        "updated_ms": session.updated_ms,
        "conversations": [
            {
                "branch": number,
                "message_id": branch.message_id,
                "active": branch.is_active,
                "messages": wire_messages(branch, shown),
            }
            for number, branch in enumerate(session.conversations, start=1)
        ],
    }
    return json.dumps(told, ensure_ascii=False)


def _markdown(session: Session, shown: Shown) -> str:
    return "\n".join(
        _page(session, shown, title="# {}\n", part="## Branch {}, up to message {}{}\n", said=_markdown_message)
    )


def _text(session: Session, shown: Shown) -> str:
    return "\n".join(_page(session, shown, title="{}", part="[branch {}, up to message {}{}]\n", said=_text_message))


def _page(
    session: Session, shown: Shown, *, title: str, part: str, said: Callable[[dict[str, Any]], str]
) -> Iterator[str]:
    yield title.format(_one_line(session.name or session.session_id))
    at = datetime.fromtimestamp(session.updated_ms / 1000, UTC).isoformat(timespec="seconds")
    yield f"{_one_line(session.session_id)}, {at}\n"
    for number, conversation in enumerate(session.conversations, start=1):
        if len(session.conversations) > 1:
            yield part.format(number, conversation.message_id, ", the active one" if conversation.is_active else "")
        yield from (said(message) for message in wire_messages(conversation, shown))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown_message(message: dict[str, Any]) -> str:
    parts = [f"**{message['role']}**"]
    if thought := message.get("reasoning_content"):
        parts.append("\n".join(f"> {line}" for line in thought.splitlines()))
    if message["role"] == "tool":
        parts.append(_fenced(message["content"]))
    elif message["content"]:
        parts.append(message["content"])
    parts += [
        _fenced(f"{call['function']['name']} {call['function']['arguments']}") for call in message.get("tool_calls", ())
    ]
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def _text_message(message: dict[str, Any]) -> str:
    lines = []
    if thought := message.get("reasoning_content"):
        lines.append(f"{message['role']} (thinking): {thought}")
    if message["content"] or not message.get("tool_calls"):
        lines.append(f"{message['role']}: {message['content']}")
    lines += [
        f"{message['role']} calls {call['function']['name']} {call['function']['arguments']}"
        for call in message.get("tool_calls", ())
    ]
    return "\n".join(lines) + "\n"


_RENDERERS: dict[Format, Callable[[Session, Shown], str]] = {
    "jsonl": _jsonl,
    "json": _json,
    "markdown": _markdown,
    "text": _text,
}
