"""One call of a model, as a conversation needs it: rendered, counted, decided, spoken. Knows no session."""

from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import Struct

from app.chat import toolmode
from app.chat.history import merged
from app.chat.stream import Generated, Piece
from app.errors import BadRequestError, ContextTooLongError, EngineError
from app.fleet.lease import Lease
from app.fleet.upstream import TokenCount, Upstream
from app.messages import Message, Role, ToolCall
from app.tools.base import ToolSpec
from app.units import KIB, MIB

_CACHED_COUNTS = 50_000
_BYTES_A_TOKEN, _GUESSED_TOKENS = 3, 8
"""For servers that do not count: a token of English is four bytes, so this cuts history early rather than late."""


_TOKEN_BYTES = 64
_INPUT_TOKENS = "/v1/chat/completions/input_tokens"


class _Applied(Struct):
    """llama-server's answers, as far as they are read: it is asked here in words of its own."""

    prompt: str


class _Completed(Struct):
    content: str
    tokens_evaluated: TokenCount
    tokens_predicted: TokenCount


class _Tokens(Struct):
    tokens: list[int]


class _Input(Struct):
    input_tokens: TokenCount


class _Settings(Struct):
    n_ctx: TokenCount


class _Props(Struct):
    default_generation_settings: _Settings
    chat_template_caps: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How words are chosen; ``max_tokens`` is the longest answer."""

    temperature: float
    max_tokens: int
    top_p: float
    top_k: int
    repeat_penalty: float


@dataclass(frozen=True, slots=True)
class Template:
    """What a model's chat template is like, measured once for each instance."""

    caps: Mapping[str, Any]
    base_tokens: int
    """Tokens of a prompt beside its messages."""
    message_tokens: int
    """Tokens that each message takes beside its text."""
    context_tokens: int


@dataclass(slots=True)
class Usage:
    """What the calls of a turn took."""

    prompt_tokens: int = 0
    """Of the last call."""
    generated_tokens: int = 0
    generation_s: float = 0.0

    def add(self, *, prompt_tokens: int, generated_tokens: int, seconds: float) -> None:
        """Count one more call."""
        self.prompt_tokens = prompt_tokens
        self.generated_tokens += generated_tokens
        self.generation_s += seconds


class Models:
    """Remembers what was measured of templates and texts."""

    def __init__(self) -> None:
        """Nothing measured yet."""
        self._templates: weakref.WeakKeyDictionary[Upstream, Template] = weakref.WeakKeyDictionary()
        self._counts: dict[tuple[str, bytes], int] = {}

    async def template(self, upstream: Upstream) -> Template:
        """The template of this instance. Raises UpstreamError."""
        known = self._templates.get(upstream)
        if known is None:
            known = self._templates[upstream] = await _measure(upstream)
        return known

    async def count(self, upstream: Upstream, counted_by: str, message: Message) -> int:
        """Length of a message in tokens, by the engine's own tokenizer. Raises UpstreamError."""
        template = await self.template(upstream)
        # As a guided model is shown it: about what a native template makes of calls and results, too.
        text = toolmode.guided_messages([message])[0].content
        # By digest: texts may be megabytes.
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()
        known = self._counts.get((counted_by, digest))
        if known is None:
            if len(self._counts) >= _CACHED_COUNTS:
                self._counts.clear()
            tokens = await _text_tokens(upstream, text)
            known = self._counts[counted_by, digest] = tokens + template.message_tokens
        return known


@dataclass(slots=True)
class Call:
    """One call of a model in the making: the same conversation decided on, then spoken."""

    lease: Lease
    template: Template
    system_prompt: str
    tools: Sequence[ToolSpec]
    choice: toolmode.Choice
    sampling: Sampling
    usage: Usage
    generated: Generated = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is generated yet."""
        self.generated = Generated(self.sampling.max_tokens, self.lease.upstream.server)

    @property
    def mode(self) -> Literal["native", "guided"]:
        """How this model calls tools; only llama-server itself can be guided."""
        if not self.lease.upstream.is_llama_server:
            return "native"
        return toolmode.choose_mode(self.lease.spec.tool_mode, self.template.caps)

    @property
    def decides_first(self) -> bool:
        """True when a grammar must make the choice before the model speaks."""
        can = bool(self.tools) and self.lease.upstream.is_llama_server
        return can and (self.mode == "guided" or self.choice != "auto")

    def system_text(self, *, deciding: bool) -> str:
        """The system prompt. A model that decides under a grammar is told of the tools in words.

        It is not while it speaks: a small model would go on writing calls. The engine keeps both beginnings cached.
        """
        if deciding:
            return f"{self.system_prompt}\n\n{toolmode.guided_prompt(self.tools)}".strip()
        return self.system_prompt

    def _wire(self, branch: Sequence[Message], *, deciding: bool) -> list[dict[str, Any]]:
        messages = list(branch) if self.mode == "native" else toolmode.guided_messages(branch)
        system = self.system_text(deciding=deciding)
        if system:
            role: Role = "system" if self.template.caps.get("supports_system_role", True) else "user"
            messages.insert(0, Message(role, system))
        return [toolmode.native_message(message) for message in merged(messages)]

    async def decide(self, branch: Sequence[Message], call_id: str) -> ToolCall | None:
        """Let the model choose a tool under a grammar; None when it wants to speak.

        Raises:
            EngineError: llama-server refused the tools' schema.
            UpstreamError: It broke off.
        """
        begun_s, upstream = time.monotonic(), self.lease.upstream
        messages = self._wire(branch, deciding=True)
        prompt = (await upstream.ask("/apply-template", {"messages": messages}, of=_Applied)).prompt
        body = {
            "prompt": prompt,
            "json_schema": toolmode.decision_schema(self.tools, self.choice),
            "n_predict": toolmode.DECISION_TOKENS,
            "temperature": 0.0,
            "cache_prompt": True,
        }
        try:
            answer = await upstream.ask("/completion", body, of=_Completed)
        except ContextTooLongError:
            raise
        except BadRequestError as exc:
            # Its own sentence speaks of a template parser, which helps nobody.
            raise EngineError(f"llama-server refused the tools' JSON schema: {exc.message[:300]}") from exc
        self.usage.add(
            prompt_tokens=answer.tokens_evaluated,
            generated_tokens=answer.tokens_predicted,
            seconds=time.monotonic() - begun_s,
        )
        return toolmode.read_decision(answer.content, call_id)

    async def speak(self, branch: Sequence[Message]) -> AsyncIterator[Piece]:
        """Let the model answer, streamed; afterwards ``generated`` holds the whole.

        Raises:
            UpstreamError: It broke off, or failed.
            BadRequestError: It refused the request.
        """
        begun_s, sampling = time.monotonic(), self.sampling
        body: dict[str, Any] = {
            "model": self.lease.spec.upstream_name,
            "messages": self._wire(branch, deciding=False),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "top_p": sampling.top_p,
        }
        if self.lease.upstream.is_llama_server:
            # Others refuse what OpenAI has not.
            more = {"top_k": sampling.top_k, "repeat_penalty": sampling.repeat_penalty}
            body |= {"cache_prompt": True, **more}
        elif self.tools and self.choice != "auto":
            body["tool_choice"] = toolmode.native_choice(self.choice)
        if self.tools and self.mode == "native":
            body |= {"tools": toolmode.native_tools(self.tools), "parallel_tool_calls": True}
        async with await self.lease.upstream.send("/v1/chat/completions", msgspec.json.encode(body)) as answer:
            if answer.status != 200:
                raise await answer.refused()
            async for piece in self.generated.read(answer.chunks()):
                yield piece
        self.usage.add(
            prompt_tokens=self.generated.prompt_tokens,
            generated_tokens=self.generated.completion_tokens,
            seconds=time.monotonic() - begun_s,
        )


async def _text_tokens(upstream: Upstream, text: str) -> int:
    if not upstream.is_llama_server:
        return len(text.encode(errors="replace")) // _BYTES_A_TOKEN + 1
    # A token is a byte of the text, and a number and a comma in the answer; some normal forms of Unicode are longer.
    limit_bytes = KIB + _TOKEN_BYTES * len(text.encode(errors="replace"))
    answer = await upstream.ask(
        "/tokenize", {"content": text, "add_special": False}, of=_Tokens, limit_bytes=limit_bytes
    )
    return len(answer.tokens)


async def _measure(upstream: Upstream) -> Template:
    """Two prompts of one-word messages tell what the template adds to each message and to the whole."""
    if not upstream.is_llama_server:
        return Template({}, _GUESSED_TOKENS, _GUESSED_TOKENS, upstream.context_tokens)
    props = await upstream.ask("/props", of=_Props, limit_bytes=MIB)
    word = await _text_tokens(upstream, "word")
    turn = [{"role": "user", "content": "word"}, {"role": "assistant", "content": "word"}]
    short, long = [
        (await upstream.ask(_INPUT_TOKENS, {"messages": turn * times + turn[:1]}, of=_Input)).input_tokens
        for times in (1, 2)
    ]
    message_tokens = max(0, -(-(long - short) // 2) - word)
    base_tokens = max(0, short - 3 * (message_tokens + word))
    context_tokens = props.default_generation_settings.n_ctx
    return Template(props.chat_template_caps or {}, base_tokens, message_tokens, context_tokens)
