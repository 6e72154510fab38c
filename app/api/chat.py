"""POST /chat: the owner's stateful conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Request, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from app.api.auth import Scope
from app.api.turns import Answered, RetryKey, SessionId, TurnOptions, answered
from app.chat.history import read_account
from app.errors import BadRequestError
from app.messages import Message, ToolCall
from app.store.records import SessionKey


class TextPart(Struct):
    """A part of a message; /chat takes text only."""

    type: Annotated[str, Meta(max_length=64)]
    text: str | None = None


class Said(Struct):
    """One message of the client's array."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[Any] | None = None

    @property
    def text(self) -> str:
        """Its text, parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


class ChatRequest(TurnOptions, kw_only=True):
    """The body of POST /chat; what is absent comes from the session's settings, then from the manifest."""

    messages: Annotated[list[Said], Meta(max_length=10_000)]
    session_id: SessionId | None = None


@post("/chat", opt={"scope": Scope.USE}, status_code=200)
async def chat(request: Request[Any, Any, Any], data: JSONBody[ChatRequest], retry_key: RetryKey = None) -> Answered:
    """Say something in a session; the answer as JSON, or with ``stream`` as server-sent events.

    With an ``Idempotency-Key`` a retry is no second turn: it joins the one that runs, or is answered as before.
    """
    _check_parts(data.messages)
    account = read_account([Message(said.role, said.text, _replayed(said)) for said in data.messages])
    key = SessionKey(request.scope["state"]["actor"].name, data.session_id or "default")
    return await answered(request, data, key, account, retry_key=retry_key)


def _check_parts(messages: list[Said]) -> None:
    """Raises BadRequestError where a part is no text."""
    for index, said in enumerate(messages):
        for number, part in enumerate(said.content if isinstance(said.content, list) else ()):
            where = f"messages[{index}].content[{number}]"
            if part.type != "text":
                message = "/chat keeps text only; send images and sound to /v1/chat/completions"
                raise BadRequestError(message, param=f"{where}.type")
            if part.text is None:
                raise BadRequestError("a part of type text needs text", param=f"{where}.text")


def _replayed(said: Said) -> tuple[ToolCall, ...]:
    """A client may replay a tool round it was shown; that it is one is all that counts."""
    return (ToolCall("", "", ""),) if said.role == "assistant" and said.tool_calls else ()
