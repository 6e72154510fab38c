"""POST /v1/chat/completions with ``server_tools``: the one way in which tools of the server run below /v1.

A request names each tool that may run; what it does not name does not exist for it. The answer has OpenAI's shape, as
if the model had known everything by itself. Fields that only llama-server understands do not go together with it.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from app.api.fields import ChatFields, ChatMessage
from app.api.keep_alive import keep_alive_s
from app.chat.history import merged
from app.chat.model import Sampling
from app.chat.once import Answering, OnceRequest
from app.chat.stream import Piece
from app.chat.toolmode import read_choice
from app.errors import BadRequestError
from app.messages import Message, ToolCall
from app.service import Service
from app.tools.base import ToolSpec

_GO_TOGETHER = frozenset(
    {
        *("model", "keep_alive", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"),
        *("temperature", "top_p", "top_k", "repeat_penalty", "tool_choice", "parallel_tool_calls", "server_tools"),
    }
)


def once_request(service: Service, key: str, fields: ChatFields, *, wait_s: float) -> OnceRequest:
    """What such a request asks for.

    Args:
        service: Where the tools are.
        key: The model's key.
        fields: The body.
        wait_s: How long each round may wait for the model.

    Raises:
        BadRequestError: A tool is unknown or cannot run here, or a field does not go together with ``server_tools``.
    """
    given = {name for name in msgspec.to_builtins(fields) if getattr(fields, name) is not None}
    if others := given - _GO_TOGETHER:
        name = min(others)
        raise BadRequestError(f"{name} does not go together with server_tools; leave one of them out", param=name)
    snapshot, tools = service.live.current, _named(service, fields.server_tools or [])
    defaults = snapshot.manifest.defaults

    def first(value: Any, default: Any) -> Any:
        return default if value is None else value

    sampling = Sampling(
        first(fields.temperature, defaults.temperature),
        first(fields.max_completion_tokens, first(fields.max_tokens, defaults.max_tokens)),
        first(fields.top_p, defaults.top_p),
        max(0, first(fields.top_k, defaults.top_k)),
        first(fields.repeat_penalty, defaults.repeat_penalty),
    )
    system, rest = _system_and_rest(fields.messages)
    choice = read_choice(fields.tool_choice, tools)
    offered, keep_s = tools if choice != "none" else (), keep_alive_s(fields.keep_alive)
    return OnceRequest(merged(rest), system, key, sampling, offered, choice, wait_s, keep_s)


async def whole(answering: Answering, model: str) -> bytes:
    """The answer as one object of OpenAI's. Raises AirLabError."""
    async with aclosing(answering.pieces()) as pieces:
        heard = [piece async for piece in pieces]
    reasoning = "".join(piece.reasoning for piece in heard)
    message = {"role": "assistant", "content": "".join(piece.text for piece in heard)}
    message |= {"reasoning_content": reasoning} if reasoning else {}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answering.finish_reason}
    head = {"id": _new_id(), "object": "chat.completion", "created": int(time.time()), "model": model}
    return msgspec.json.encode(head | {"choices": [choice], "usage": _usage(answering)})


async def streamed(answering: Answering, model: str, *, with_usage: bool) -> AsyncGenerator[bytes]:
    """The answer as events of OpenAI's, ``[DONE]`` last. Raises AirLabError."""
    head = {"id": _new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

    def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event(head | {"choices": [choice]})

    first = {"role": "assistant", "content": ""}
    async with aclosing(answering.pieces()) as pieces:
        async for piece in pieces:
            yield event(first | _delta(piece))
            first = {}
    yield event(first, answering.finish_reason)
    if with_usage:
        yield _event(head | {"choices": [], "usage": _usage(answering)})
    yield b"data: [DONE]\n\n"


def _delta(piece: Piece) -> dict[str, str]:
    said = {"content": piece.text, "reasoning_content": piece.reasoning}
    return {name: text for name, text in said.items() if text}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def _usage(answering: Answering) -> dict[str, int]:
    prompt, completion = answering.usage.prompt_tokens, answering.usage.generated_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _named(service: Service, names: list[str]) -> tuple[ToolSpec, ...]:
    if not service.live.current.tools_on:
        raise BadRequestError("the server's switch for tools is off (POST /command tools on)", param="server_tools")
    offered, why_not = service.gate.offered()
    known = {spec.name: spec for spec in offered}
    for name in names:
        if name not in known:
            allowed = ", ".join(known) or "none"
            more = f" ({why_not})" if why_not else ""
            raise BadRequestError(
                f"there is no tool {name!r:.80} that can run here; there are: {allowed}{more}", param="server_tools"
            )
    return tuple(known[name] for name in dict.fromkeys(names))


def _system_and_rest(messages: list[ChatMessage]) -> tuple[str, list[Message]]:
    leading = list(itertools.takewhile(lambda message: message.role == "system", messages))
    rest = messages[len(leading) :]
    for index, message in enumerate(rest, len(leading)):
        if message.role == "system":
            raise BadRequestError("with server_tools, system messages stand first", param=f"messages[{index}].role")
    return "\n\n".join(map(_text, leading)), [_message(message) for message in rest]


def _message(message: ChatMessage) -> Message:
    calls = tuple(
        ToolCall(call.id if isinstance(call.id, str) else f"call_{at}", call.function.name, call.function.arguments)
        for at, call in enumerate(message.tool_calls or ())
    )
    role = "system" if message.role == "developer" else message.role
    return Message(role, _text(message), calls, message.tool_call_id)


def _text(message: ChatMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    if any(part.type != "text" for part in message.content):
        raise BadRequestError("with server_tools, messages hold text only", param="messages")
    return "".join(part.text or "" for part in message.content)
