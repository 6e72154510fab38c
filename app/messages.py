"""What is said: messages, the calls a model makes, and what comes back. Knows nobody; the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the model made it: not yet checked, let alone allowed."""

    id: str
    name: str
    arguments: str
    """JSON as text, as the model wrote it; it may be anything."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The answer to a call. A failure and a denial are answers too."""

    call: ToolCall
    status: Literal["ok", "error", "denied"]
    content: str
    """JSON as text, for the model: the tool's result, or {"status": "error", "error": ...} with what to try instead."""
    reason: str
    """Why it was allowed or denied, in words."""
    duration_s: float
    ran: bool = False
    """True when the tool was run, whatever came of it; False for a call that was refused, or made no sense."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """What an assistant asked for; such a message is part of a tool round and is not shown as an answer."""
    tool_call_id: str | None = None
    """Which call a ``tool`` message answers."""
    reasoning: str | None = None

    @property
    def visible(self) -> bool:
        """True for what a client holds of the conversation: what users said and what was answered."""
        return self.role == "user" or (self.role == "assistant" and not self.tool_calls)
