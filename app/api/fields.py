"""What a /v1 request may hold: the structs are the allow-list, and the check.

A body is decoded into one of these and encoded anew, so that nothing reaches llama-server that is not named here: a
field that it would act on (``n_discard``, which has led to a write out of bounds, ``id_slot``, ``lora``) is dropped
like any unknown one, as clients expect.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from app.api.keep_alive import KeepAlive
from app.errors import BadRequestError
from app.nesting import MOST_LEVELS, too_deep

Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(ge=1, le=10_000_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
WholeNumber = Annotated[int, Meta(ge=-1, le=1_000_000)]
Penalty = Annotated[float, Meta(ge=-10, le=10)]
Stop = Annotated[str, Meta(max_length=1000)]
TokenId = Annotated[int, Meta(ge=0, le=10_000_000)]
MOST_MESSAGES = 10_000
"""Of a chat: its template takes time in proportion to their square, some seconds for so many."""
Texts = str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=10_000)]
"""One text or many, as text or as token ids. One list of all three: msgspec takes no union of lists."""


class _Fields(Struct, kw_only=True, omit_defaults=True):
    model: str | None = None
    keep_alive: KeepAlive | None = None
    """AirLab's own field: how long the model stays loaded afterwards. It reaches no engine, and no other server."""


class Sampling(_Fields, kw_only=True):
    """What chat and plain completion share. ``null``, which some clients send for "as you like", counts as absent."""

    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: Positive | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=64)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Fraction | None = None
    top_k: WholeNumber | None = None
    min_p: Fraction | None = None
    typical_p: Fraction | None = None
    top_n_sigma: Annotated[float, Meta(ge=-1, le=100)] | None = None
    xtc_probability: Fraction | None = None
    xtc_threshold: Fraction | None = None
    dynatemp_range: Annotated[float, Meta(ge=0, le=10)] | None = None
    dynatemp_exponent: Annotated[float, Meta(ge=0, le=10)] | None = None
    adaptive_target: Annotated[float, Meta(ge=-1, le=1)] | None = None
    adaptive_decay: Fraction | None = None
    repeat_penalty: Penalty | None = None
    repeat_last_n: WholeNumber | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: WholeNumber | None = None
    dry_sequence_breakers: Annotated[list[Stop], Meta(max_length=64)] | None = None
    mirostat: Annotated[int, Meta(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Meta(ge=0, le=10)] | None = None
    samplers: Annotated[list[str], Meta(max_length=32)] | None = None
    logit_bias: Any = None
    ignore_eos: bool | None = None
    grammar: Annotated[str, Meta(max_length=262_144)] | None = None
    json_schema: Any = None
    cache_prompt: bool | None = None
    n_keep: WholeNumber | None = None
    n_probs: Annotated[int, Meta(ge=0, le=100)] | None = None
    min_keep: Count | None = None
    post_sampling_probs: bool | None = None
    t_max_predict_ms: Count | None = None
    timings_per_token: bool | None = None


class ImageUrl(Struct, omit_defaults=True):
    """An image inside the message; see ``media.py``."""

    url: str
    detail: str | None = None


class InputAudio(Struct, omit_defaults=True):
    """Sound inside the message; see ``media.py``."""

    data: str
    format: str | None = None


class Part(Struct, omit_defaults=True):
    """One part of a message's content."""

    type: Literal["text", "image_url", "input_audio"]
    text: str | None = None
    image_url: ImageUrl | None = None
    input_audio: InputAudio | None = None


class CalledFunction(Struct):
    """The function of a call that a model made."""

    name: str
    arguments: str = "{}"


class CalledTool(Struct):
    """A call that a model made, in replayed history. Its type is always sent: llama-server insists on it."""

    function: CalledFunction
    id: str | UnsetType | None = UNSET
    type: Literal["function"] = "function"


class ToolFunction(Struct, omit_defaults=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class Tool(Struct):
    """A tool on offer; what is no function llama-server answers with a 500."""

    type: Literal["function"]
    function: ToolFunction


class ChatMessage(Struct, omit_defaults=True):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ChatFields(Sampling, kw_only=True):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Positive | None = None
    response_format: Any = None
    tools: Annotated[list[Tool], Meta(max_length=512)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=100)] | None = None
    chat_template_kwargs: Any = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    reasoning_effort: str | None = None
    thinking_budget_tokens: Count | None = None
    add_generation_prompt: bool | None = None
    server_tools: Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=128)] | None = None
    """AirLab's own field: tools of the server that may run for this request, by their names."""


class CompletionFields(Sampling, kw_only=True):
    """The body of /v1/completions."""

    prompt: Texts
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=100)] | None = None


class EmbeddingFields(_Fields, kw_only=True):
    """The body of /v1/embeddings."""

    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None


class Document(Struct):
    """A text to rank, as some clients wrap it; llama-server takes it bare alone."""

    text: str


class RerankFields(_Fields, kw_only=True):
    """The body of /v1/rerank."""

    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=1000)]
    """Plain texts once the body was read."""
    top_n: Positive | None = None
    return_documents: bool | None = None
    """Answered by AirLab: llama-server has no such thing."""


Fields = ChatFields | CompletionFields | EmbeddingFields | RerankFields
_F = TypeVar("_F", bound=Fields)
_S = TypeVar("_S", bound=Struct)
_FREE = ("stream_options", "logit_bias", "json_schema", "response_format", "tool_choice", "chat_template_kwargs")
"""Fields that hold whatever a client likes, besides the schemas of its tools."""
_WHERE = re.compile(r" - at `\$\.?(.*)`$")
_MOST_PAIRED_CHARS = 4_000_000
"""A query of 4000 characters with 1000 documents."""
_MISSING = re.compile(r"missing required field `(.*?)`")


def read_fields(body: bytes, kind: type[_F]) -> _F:
    """A request's body, checked.

    Raises:
        BadRequestError: It is no JSON, or a field is not what it may be; ``param`` names the field.
    """
    fields = decode_body(body, kind)
    if isinstance(fields, ChatFields):
        _check_messages(fields.messages)
    if isinstance(fields, Sampling):
        check_nesting(fields)
    if isinstance(fields, ChatFields):
        check_choice(fields)
    if isinstance(fields, RerankFields):
        _settle_documents(fields)
    return fields


def decode_body(body: bytes, kind: type[_S]) -> _S:
    """A body as one of these structs; what only the struct says of it is checked. Raises as ``read_fields``."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        text = str(exc)
        raise BadRequestError(_WHERE.sub("", text), param=_field_at_fault(text)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the body is no valid JSON: {exc}") from exc


def check_nesting(fields: Sampling) -> None:
    """Raises BadRequestError where something that clients shape as they like is nested too deeply."""
    free = [(name, getattr(fields, name, None)) for name in _FREE]
    if isinstance(fields, ChatFields):
        tools = enumerate(fields.tools or ())
        free += [(f"tools[{number}].function.parameters", tool.function.parameters) for number, tool in tools]
    for name, value in free:
        if too_deep(value):
            raise BadRequestError(f"{name} is nested more than {MOST_LEVELS} deep", param=name)


def check_choice(fields: ChatFields) -> None:
    """Raises BadRequestError where a call is asked for and there is no tool: llama-server would answer with words."""
    asks = fields.tool_choice not in (None, "none", "auto")
    if asks and not fields.tools and not fields.server_tools:
        message = "tool_choice asks for a call, and the request has no tools; send some, or leave tool_choice out"
        raise BadRequestError(message, param="tool_choice")


def _settle_documents(fields: RerankFields) -> None:
    # llama-server keeps the query's tokens once for each document: a long one with many would fill its memory.
    count, together = len(fields.documents), len(fields.query) * len(fields.documents)
    if together > _MOST_PAIRED_CHARS:
        message = (
            f"a query of {len(fields.query)} characters with {count} documents is {together} characters to read, and "
            f"{_MOST_PAIRED_CHARS} are the most; send fewer documents at once, or a shorter query"
        )
        raise BadRequestError(message, param="query")
    fields.documents = [each.text if isinstance(each, Document) else each for each in fields.documents]


def _field_at_fault(text: str) -> str | None:
    """The field that msgspec's message speaks of, such as ``messages[0].role``."""
    where, missing = _WHERE.search(text), _MISSING.search(text)
    path = [found[1] for found in (where, missing) if found and found[1]]
    return ".".join(path) or None


def _check_messages(messages: list[ChatMessage]) -> None:
    for index, message in enumerate(messages):
        if message.role == "developer":  # OpenAI's newer word, which chat templates do not know
            message.role = "system"
        if message.tool_calls:
            _check_calls(message.tool_calls, f"messages[{index}].tool_calls")
        if isinstance(message.content, list):
            _check_parts(message.content, f"messages[{index}].content")


def _check_calls(calls: list[CalledTool], where: str) -> None:
    # llama-server's template code fails on arguments that are no JSON, with a 500 for the whole conversation.
    for number, call in enumerate(calls):
        if call.id is None:
            call.id = UNSET
        check_arguments(call.function.arguments, f"{where}[{number}].function.arguments")


def check_arguments(arguments: str, where: str) -> None:
    """Raises BadRequestError unless the arguments of a replayed call are JSON, or nothing at all."""
    try:
        decoded = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the arguments of a tool call must be JSON as text: {exc}", param=where) from exc
    if too_deep(decoded):
        raise BadRequestError(f"the arguments of a tool call are nested more than {MOST_LEVELS} deep", param=where)


def _check_parts(parts: list[Part], where: str) -> None:
    for number, part in enumerate(parts):
        if getattr(part, part.type) is None:  # llama-server would answer with a 500
            raise BadRequestError(f"a part of type {part.type} needs {part.type}", param=f"{where}[{number}]")
        # llama-server would fetch a URL itself, from inside: only data travels.
        if isinstance(part.image_url, ImageUrl) and not part.image_url.url.startswith("data:"):
            message = "images must be sent as data: URLs; AirLab fetches nothing for a client"
            raise BadRequestError(message, param=f"{where}[{number}].image_url.url")
        if isinstance(part.input_audio, InputAudio) and part.input_audio.data.startswith(("http", "file:")):
            message = "sound must be sent in base64; AirLab fetches nothing for a client"
            raise BadRequestError(message, param=f"{where}[{number}].input_audio.data")
