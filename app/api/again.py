"""POST /sessions/{id}/regenerate, /edit and /resume: turns that begin in the middle of what is stored."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, post
from litestar.params import FromPath, JSONBody
from msgspec import Meta

from app.api.auth import Scope
from app.api.sessions import key_of
from app.api.turns import Answered, MessageId, RetryKey, TurnOptions, answered
from app.chat.history import Account
from app.messages import Message
from app.store.records import Again

_NOTHING_NEW = Account((), from_root=False, system_prompt=None)


class RegenerateRequest(TurnOptions):
    """The body of POST /sessions/{id}/regenerate."""

    message_id: MessageId | None = None
    """The answer, or the user message, that is to be answered once more; the active branch's last without one."""


class EditRequest(TurnOptions, kw_only=True):
    """The body of POST /sessions/{id}/edit."""

    message_id: MessageId
    """The user message."""
    content: Annotated[str, Meta(max_length=16 * 1024 * 1024)]
    """What is said in its place."""


@post("/sessions/{session_id:str}/regenerate", opt={"scope": Scope.USE}, status_code=200)
async def regenerate(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    data: JSONBody[RegenerateRequest],
    retry_key: RetryKey = None,
) -> Answered:
    """Answer a user message once more, on a branch of its own that becomes the active one."""
    again = Again("regenerate", data.message_id)
    return await answered(request, data, key_of(request, session_id), _NOTHING_NEW, retry_key=retry_key, again=again)


@post("/sessions/{session_id:str}/edit", opt={"scope": Scope.USE}, status_code=200)
async def edit(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    data: JSONBody[EditRequest],
    retry_key: RetryKey = None,
) -> Answered:
    """Say something else in place of a user message, on a branch of its own, and have it answered."""
    said = Account((Message("user", data.content),), from_root=False, system_prompt=None)
    again = Again("edit", data.message_id)
    return await answered(request, data, key_of(request, session_id), said, retry_key=retry_key, again=again)


@post("/sessions/{session_id:str}/resume", opt={"scope": Scope.USE}, status_code=200)
async def resume(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    data: JSONBody[TurnOptions],
    retry_key: RetryKey = None,
) -> Answered:
    """Go on with the session's last turn where it was cut: whole rounds of tools stay, the model is asked from there.

    What the body leaves out is as that turn was asked with.
    """
    key = key_of(request, session_id)
    return await answered(request, data, key, _NOTHING_NEW, retry_key=retry_key, again=Again("resume"))
