"""POST /v1/responses, the request: OpenAI's input items as the messages of a chat.

Nothing is kept below /v1: what points at something kept is refused, and ``store`` is passed over. Tools that the server
would have to run are refused by name; a client's own functions travel.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from app.api.dialect import Asked, Body, Name, content_of, image_part, not_served, only_tool
from app.api.fields import (
    CalledFunction,
    CalledTool,
    ChatFields,
    ChatMessage,
    Part,
    Positive,
    Tool,
    ToolFunction,
    check_arguments,
    check_choice,
    check_nesting,
    decode_body,
)
from app.api.media import Media
from app.api.responded import ResponsesTelling
from app.errors import BadRequestError

_KEPT_ELSEWHERE = "AirLab keeps nothing below /v1; send the whole input, or use /chat, which keeps conversations"
_ITEMS = "message, function_call, function_call_output, reasoning"
_PARTS = "input_text, input_image, output_text, refusal"


class ContentPart(Struct):
    """One part of what an item holds."""

    type: Name
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: Name | None = None


Content = str | list[ContentPart]


class Item(Struct):
    """One item of the input; which fields it needs depends on its type."""

    type: Name = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Content | None = None
    call_id: Name | None = None
    name: Name | None = None
    arguments: str | None = None
    output: Content | None = None


class ResponsesTool(Struct, omit_defaults=True):
    """A tool on offer."""

    type: Name
    name: Name | None = None
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class Reasoning(Struct):
    """How much is to be thought."""

    effort: Name | None = None


class TextFormat(Struct, omit_defaults=True):
    """What the text has to be."""

    type: Name
    name: Name | None = None
    schema: Any = None
    strict: bool | None = None


class Text(Struct):
    """How the text is to be."""

    format: TextFormat | None = None


class ChosenTool(Struct, omit_defaults=True):
    """The tool that has to be called."""

    type: Name
    name: Name | None = None


class ResponsesFields(Body, kw_only=True):
    """The body of /v1/responses."""

    input: str | Annotated[list[Item], Meta(min_length=1, max_length=10_000)]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    tools: Annotated[list[ResponsesTool], Meta(max_length=512)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: Text | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None


def read_response(body: bytes) -> Asked:
    """A body of /v1/responses, as a request for a chat.

    Raises:
        BadRequestError: It is none, or asks for what is not done here; ``param`` names the field.
    """
    fields = decode_body(body, ResponsesFields)
    _refuse_what_is_kept(fields)
    media: list[Media] = []
    tools, choice = _tools(fields)
    chat = ChatFields(
        model=fields.model,
        keep_alive=fields.keep_alive,
        stream=fields.stream,
        messages=_messages(fields, media),
        max_tokens=fields.max_output_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        tools=tools or None,
        tool_choice=choice,
        parallel_tool_calls=fields.parallel_tool_calls,
        reasoning_effort=fields.reasoning.effort if fields.reasoning else None,
        response_format=_response_format(fields.text.format if fields.text else None),
    )
    check_nesting(chat)
    check_choice(chat)
    return Asked(chat, tuple(media), lambda model: ResponsesTelling(model, _echo(fields)), "input")


def _refuse_what_is_kept(fields: ResponsesFields) -> None:
    for name in ("previous_response_id", "conversation", "prompt"):
        if getattr(fields, name) is not None:
            raise BadRequestError(f"{name} is not served: {_KEPT_ELSEWHERE}", param=name)
    if fields.background:
        raise BadRequestError(f"background answers are not served: {_KEPT_ELSEWHERE}", param="background")


def _echo(fields: ResponsesFields) -> dict[str, Any]:
    """What an answer repeats of its request."""
    choice = fields.tool_choice or "auto"
    form = fields.text.format if fields.text else None
    return {
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "temperature": fields.temperature,
        "text": {"format": msgspec.to_builtins(form or TextFormat("text"))},
        "tool_choice": choice if isinstance(choice, str) else msgspec.to_builtins(choice),
        "tools": msgspec.to_builtins(fields.tools or []),
        "top_p": fields.top_p,
    }


def _tools(fields: ResponsesFields) -> tuple[list[Tool], str | None]:
    tools = []
    for number, tool in enumerate(fields.tools or ()):
        where = f"tools[{number}]"
        if tool.type != "function":
            raise not_served("tools", tool.type, "function, which the client runs itself", f"{where}.type")
        if not tool.name:
            raise BadRequestError("a function needs a name", param=f"{where}.name")
        tools.append(Tool("function", ToolFunction(tool.name, tool.description, tool.parameters, tool.strict)))
    choice = fields.tool_choice
    if choice is None or isinstance(choice, str):
        return tools, choice
    if choice.type != "function":
        raise not_served("choices", choice.type, "none, auto, required, function", "tool_choice.type")
    return only_tool(tools, choice.name or "", "tool_choice.name"), "required"


def _response_format(told: TextFormat | None) -> dict[str, Any] | None:
    if told is None or told.type == "text":
        return None
    if told.type == "json_object":
        return {"type": "json_object"}
    if told.type != "json_schema":
        raise not_served("formats", told.type, "text, json_object, json_schema", "text.format.type")
    schema = {"name": told.name, "schema": told.schema, "strict": told.strict}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def _messages(fields: ResponsesFields, media: list[Media]) -> list[ChatMessage]:
    told = [] if fields.instructions is None else [ChatMessage("system", fields.instructions)]
    if isinstance(fields.input, str):
        return [*told, ChatMessage("user", fields.input)]
    for number, item in enumerate(fields.input):
        _add_item(told, item, f"input[{number}]", media)
    return _with_one_system_message(told)


def _add_item(told: list[ChatMessage], item: Item, where: str, media: list[Media]) -> None:
    match item.type:
        case "message":
            if item.role is None or item.content is None:
                raise BadRequestError("a message needs a role and content", param=where)
            content = _content(item.content, f"{where}.content", media)
            if item.role == "assistant":
                _say(_assistant(told), content)
            else:
                told.append(ChatMessage("user" if item.role == "user" else "system", content))
        case "function_call":
            if not item.name or not item.call_id:
                raise BadRequestError("a function_call needs a name and a call_id", param=where)
            check_arguments(item.arguments or "", f"{where}.arguments")
            called, message = CalledFunction(item.name, item.arguments or "{}"), _assistant(told)
            message.tool_calls = message.tool_calls or []
            message.tool_calls.append(CalledTool(called, item.call_id))
        case "function_call_output":
            if item.output is None or not item.call_id:
                raise BadRequestError("a function_call_output needs an output and a call_id", param=where)
            content = _content(item.output, f"{where}.output", media)
            told.append(ChatMessage("tool", content, tool_call_id=item.call_id))
        case "reasoning":  # without content it is sealed, for the server that thought it
            thoughts = item.content if isinstance(item.content, list) else ()
            if thought := "".join(part.text or "" for part in thoughts):
                _assistant(told).reasoning_content = thought
        case _:
            raise not_served("input items", item.type, f"{_ITEMS}. {_KEPT_ELSEWHERE}", f"{where}.type")


def _assistant(told: list[ChatMessage]) -> ChatMessage:
    """The message that an item of the model's belongs to: thoughts, text and calls are one turn."""
    if not told or told[-1].role != "assistant":
        told.append(ChatMessage("assistant", ""))
    return told[-1]


def _say(message: ChatMessage, content: str | list[Part]) -> None:
    """Add to what a message says already. In place: ten thousand items that copied all before them took seconds."""
    if not message.content:
        message.content = content
        return
    message.content = _as_parts(message.content)
    message.content += _as_parts(content)


def _as_parts(content: str | list[Part]) -> list[Part]:
    return [Part("text", content)] if isinstance(content, str) else content


def _content(content: Content, where: str, media: list[Media]) -> str | list[Part]:
    if isinstance(content, str):
        return content
    return content_of([_part(part, f"{where}[{number}]", media) for number, part in enumerate(content)])


def _part(part: ContentPart, where: str, media: list[Media]) -> Part:
    match part.type:
        case "input_text" | "output_text":
            text = part.text
        case "refusal":
            text = part.refusal
        case "input_image":
            if part.image_url is None:
                raise BadRequestError("an input_image needs an image_url", param=where)
            return image_part(part.image_url, media, f"{where}.image_url", part.detail)
        case _:
            raise not_served("parts", part.type, _PARTS, f"{where}.type")
    if text is None:
        raise BadRequestError(f"a part of type {part.type} needs its text", param=where)
    return Part("text", text)


def _with_one_system_message(told: list[ChatMessage]) -> list[ChatMessage]:
    """Instructions and developers' messages at the beginning as one: many templates take one, and only there."""
    leading = list(itertools.takewhile(lambda message: message.role == "system", told))
    if len(leading) < 2 or not all(isinstance(message.content, str) for message in leading):
        return told
    text = "\n\n".join(message.content for message in leading if isinstance(message.content, str))
    return [ChatMessage("system", text), *told[len(leading) :]]
