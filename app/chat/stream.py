"""llama-server's chat stream, read: pieces of text and of tool calls, and how it ended. Knows no conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from app.errors import UpstreamError
from app.messages import ToolCall

_EVENT_BYTES = 4 * 1024 * 1024


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _Fragment(Struct):
    """A piece of a tool call; pieces of one call have one index."""

    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Fragment] | None = None


class _Choice(Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int


class _Chunk(Struct):
    """What is read of an event; anything else in it is passed over."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event of the stream brought."""

    text: str = ""
    reasoning: str = ""


@dataclass(slots=True)
class Generated:
    """One answer of the model, gathered while it is streamed."""

    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _calls: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The native tool calls, in order."""
        return tuple(
            ToolCall(call["id"] or f"call_{index}", call["name"], call["arguments"] or "{}")
            for index, call in sorted(self._calls.items())
        )

    async def read(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Piece]:
        """Read the stream to its end; yields what a user may see, as it comes.

        Raises:
            UpstreamError: The stream broke off, or holds what is no event.
        """
        ended = False
        async for data in events(chunks):
            if data == b"[DONE]":
                ended = True
            else:
                piece = self._take(_decoded(data))
                if piece.text or piece.reasoning:
                    yield piece
        if not ended and not self.finish_reason:
            raise UpstreamError("llama-server's stream ended before its answer did")

    def _take(self, chunk: _Chunk) -> Piece:
        if chunk.error is not None:
            raise UpstreamError(f"llama-server broke off: {chunk.error}"[:600])
        if chunk.usage is not None:
            self.prompt_tokens, self.completion_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        if not chunk.choices:
            return Piece()
        choice = chunk.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        for fragment in choice.delta.tool_calls or ():
            self._add_fragment(fragment)
        return Piece(choice.delta.content or "", choice.delta.reasoning_content or "")

    def _add_fragment(self, fragment: _Fragment) -> None:
        call = self._calls.setdefault(fragment.index, {"id": "", "name": "", "arguments": ""})
        call["id"] += fragment.id or ""
        call["name"] += fragment.function.name or ""
        call["arguments"] += fragment.function.arguments or ""


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event, however the bytes are cut. Raises UpstreamError at one over 4 MiB."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(rest) > _EVENT_BYTES:
            raise UpstreamError("llama-server sent an event without end")


def _decoded(data: bytes) -> _Chunk:
    try:
        return msgspec.json.decode(data, type=_Chunk)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamError(f"llama-server's stream holds what is no event of a chat: {data[:80]!r}") from exc
