"""POST /v1/messages and its count_tokens, the request: Anthropic's content blocks as the messages of a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from app.api.anthropic_told import MessageTelling
from app.api.dialect import Asked, Body, Name, content_of, image_part, not_served, only_tool
from app.api.fields import (
    MOST_MESSAGES,
    CalledFunction,
    CalledTool,
    ChatFields,
    ChatMessage,
    Count,
    Part,
    Positive,
    Stop,
    Tool,
    ToolFunction,
    WholeNumber,
    check_arguments,
    check_choice,
    check_nesting,
    decode_body,
)
from app.api.media import Media
from app.errors import BadRequestError

_BLOCKS = "text, image, tool_use, tool_result, thinking"
_STAMP = "x-anthropic-billing-header:"
"""What a block of Claude Code's system prompt begins with. It is new in each request, so that with it no prompt would
begin as the one before did, and nothing of its work could be used again."""


class Source(Struct):
    """Where an image is."""

    type: Name
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"] | None = None
    data: str | None = None


class Shown(Struct):
    """A block of what a tool found."""

    type: Name
    text: str | None = None
    source: Source | None = None


class ContentBlock(Struct):
    """A block of a message; which fields it needs depends on its type."""

    type: Name
    text: str | None = None
    source: Source | None = None
    id: Name | None = None
    name: Name | None = None
    input: dict[str, Any] | None = None
    tool_use_id: Name | None = None
    content: str | list[Shown] | None = None
    thinking: str | None = None


class Turn(Struct):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class SystemBlock(Struct):
    """A part of the system prompt."""

    type: Literal["text"]
    text: str


class MessagesTool(Struct):
    """A tool on offer."""

    name: Name
    type: Name | None = None
    description: str | None = None
    input_schema: Any = None


class ToolChoice(Struct):
    """Whether, and which, tool is to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct):
    """Whether to think first, and how much."""

    type: Name
    budget_tokens: Count | None = None


class OutputFormat(Struct):
    """What the text has to be."""

    type: Literal["json_schema"]
    schema: Any


class OutputConfig(Struct):
    """How the answer is to be."""

    format: OutputFormat | None = None


class CountFields(Body, kw_only=True):
    """The body of /v1/messages/count_tokens."""

    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MOST_MESSAGES)]
    system: str | Annotated[list[SystemBlock], Meta(max_length=1000)] | None = None
    tools: Annotated[list[MessagesTool], Meta(max_length=512)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesFields(CountFields, kw_only=True):
    """The body of /v1/messages."""

    max_tokens: Positive
    stop_sequences: Annotated[list[Stop], Meta(max_length=64)] | None = None
    top_k: WholeNumber | None = None


def read_message(body: bytes) -> Asked:
    """A body of /v1/messages, as a request for a chat.

    Raises:
        BadRequestError: It is none, or asks for what is not done here; ``param`` names the field.
    """
    fields = decode_body(body, MessagesFields)
    asked = _asked(fields)
    asked.chat.max_tokens = fields.max_tokens
    asked.chat.stop = fields.stop_sequences or None
    asked.chat.top_k = fields.top_k
    return asked


def read_count(body: bytes) -> Asked:
    """A body of /v1/messages/count_tokens, as the request for a chat that is to be counted. Raises as above."""
    return _asked(decode_body(body, CountFields))


def _asked(fields: CountFields) -> Asked:
    media: list[Media] = []
    tools, choice = _tools(fields)
    thinks = fields.thinking
    chat = ChatFields(
        model=fields.model,
        keep_alive=fields.keep_alive,
        stream=fields.stream,
        messages=_messages(fields, media),
        temperature=fields.temperature,
        top_p=fields.top_p,
        tools=tools or None,
        tool_choice=choice,
        parallel_tool_calls=False if fields.tool_choice and fields.tool_choice.disable_parallel_tool_use else None,
        chat_template_kwargs={"enable_thinking": False} if thinks and thinks.type == "disabled" else None,
        thinking_budget_tokens=thinks.budget_tokens if thinks and thinks.type == "enabled" else None,
        response_format=_response_format(fields.output_config),
    )
    check_nesting(chat)
    check_choice(chat)
    return Asked(chat, tuple(media), MessageTelling, "messages")


def _response_format(config: OutputConfig | None) -> dict[str, Any] | None:
    if config is None or config.format is None:
        return None
    return {"type": "json_schema", "json_schema": {"schema": config.format.schema}}


def _tools(fields: CountFields) -> tuple[list[Tool], str | None]:
    tools = []
    for number, tool in enumerate(fields.tools or ()):
        if tool.type not in {None, "custom"}:
            served = "custom, which the client describes, and runs itself"
            raise not_served("tools", tool.type or "", served, f"tools[{number}].type")
        tools.append(Tool("function", ToolFunction(tool.name, tool.description, tool.input_schema)))
    choice = fields.tool_choice
    if choice is None:
        return tools, None
    if choice.type == "tool":
        return only_tool(tools, choice.name or "", "tool_choice.name"), "required"
    return tools, "required" if choice.type == "any" else choice.type


def _messages(fields: CountFields, media: list[Media]) -> list[ChatMessage]:
    told = []
    if isinstance(fields.system, str):
        told.append(ChatMessage("system", fields.system))
    elif fields.system is not None:
        parts = [Part("text", block.text) for block in fields.system if not block.text.startswith(_STAMP)]
        told.append(ChatMessage("system", content_of(parts)))
    for number, turn in enumerate(fields.messages):
        where = f"messages[{number}].content"
        if isinstance(turn.content, str):
            told.append(ChatMessage(turn.role, turn.content))
        elif turn.role == "assistant":
            told.append(_said(turn.content, where))
        else:
            told += _shown(turn.role, turn.content, where, media)
    if len(told) > MOST_MESSAGES:  # each tool_result becomes one of its own
        message = f"these are {len(told)} messages, tool results counted, and {MOST_MESSAGES} are the most"
        raise BadRequestError(message, param="messages")
    return told


def _said(blocks: list[ContentBlock], where: str) -> ChatMessage:
    """What the model said, thought and called, in one message."""
    parts, thoughts, calls = [], [], []
    for number, block in enumerate(blocks):
        at = f"{where}[{number}]"
        match block.type:
            case "text":
                parts.append(Part("text", _needed(block.text, "text", at)))
            case "thinking":
                thoughts.append(_needed(block.thinking, "thinking", at))
            case "redacted_thinking":  # sealed, for the server that thought it
                pass
            case "tool_use":
                name, call_id = _needed(block.name, "name", at), _needed(block.id, "id", at)
                arguments = msgspec.json.encode(block.input or {}).decode()
                check_arguments(arguments, f"{at}.input")
                calls.append(CalledTool(CalledFunction(name, arguments), call_id))
            case _:
                raise not_served("an assistant's blocks", block.type, _BLOCKS, f"{at}.type")
    thought = "".join(thoughts) or None
    return ChatMessage("assistant", content_of(parts), tool_calls=calls or None, reasoning_content=thought)


def _shown(
    role: Literal["user", "system"], blocks: list[ContentBlock], where: str, media: list[Media]
) -> list[ChatMessage]:
    """What the user said, and what tools found, in the order in which it came."""
    told: list[ChatMessage] = []
    parts: list[Part] = []
    for number, block in enumerate(blocks):
        at = f"{where}[{number}]"
        if block.type != "tool_result":
            parts.append(_part(block, at, media))
            continue
        if parts:
            told.append(ChatMessage(role, content_of(parts)))
            parts = []
        call_id = _needed(block.tool_use_id, "tool_use_id", at)
        told.append(ChatMessage("tool", _found(block.content, f"{at}.content", media), tool_call_id=call_id))
    if parts or not told:
        told.append(ChatMessage(role, content_of(parts)))
    return told


def _found(content: str | list[Shown] | None, where: str, media: list[Media]) -> str | list[Part]:
    if content is None or isinstance(content, str):
        return content or ""
    return content_of([_part(block, f"{where}[{number}]", media) for number, block in enumerate(content)])


def _part(block: ContentBlock | Shown, where: str, media: list[Media]) -> Part:
    if block.type == "text":
        return Part("text", _needed(block.text, "text", where))
    if block.type != "image":
        raise not_served("blocks", block.type, _BLOCKS, f"{where}.type")
    source = block.source
    if source is None or source.type != "base64" or source.media_type is None or source.data is None:
        message = "an image must be sent as a source of type base64, with media_type and data; AirLab fetches nothing"
        raise BadRequestError(message, param=f"{where}.source")
    return image_part(f"data:{source.media_type};base64,{source.data}", media, f"{where}.source.data")


def _needed(value: str | None, name: str, where: str) -> str:
    if value is None:
        raise BadRequestError(f"a block of this type needs {name}", param=f"{where}.{name}")
    return value
