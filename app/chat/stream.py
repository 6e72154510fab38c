"""llama-server's chat stream, read: pieces of text and of tool calls, and how it ended. Knows no conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from app.errors import UpstreamError
from app.fleet.upstream import TokenCount, words_of
from app.messages import ToolCall
from app.units import KIB, MIB, format_bytes

_EVENT_BYTES = 4 * MIB
_KEPT_BYTES, _CALL_BYTES = 128, 512
"""What an event, and a tool call, take in our memory beside their text."""
_TOKEN_BYTES, _THOUGHT_BYTES, _LONGEST_BYTES = KIB, 16 * MIB, 512 * MIB


def bound_bytes(max_tokens: int) -> int:
    """What an answer of so many tokens may take in our memory, in bytes, before its server is broken off.

    Nothing that keeps to its tokens comes near it. The longest tokens are some hundred bytes, and servers that send
    each letter as an event of its own send eight for one. The rest is for thoughts, which some do not count: 100,000
    tokens of them. Without any bound a broken or hostile server fills the memory of all.
    """
    return min(_THOUGHT_BYTES + _TOKEN_BYTES * max_tokens, _LONGEST_BYTES)


class CallPart(Struct):
    """What a fragment brings of the function that is called."""

    name: str | None = None
    arguments: str | None = None


class Fragment(Struct):
    """A piece of a tool call; pieces of one call have one index."""

    index: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    id: str | None = None
    function: CallPart = msgspec.field(default_factory=CallPart)


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Fragment] | None = None


class _Choice(Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _PromptDetails(Struct):
    cached_tokens: TokenCount | None = None


class _Usage(Struct):
    prompt_tokens: TokenCount
    completion_tokens: TokenCount
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(Struct):
    """What is read of an event; anything else in it is passed over."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event of the stream brought."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Fragment, ...] = ()


@dataclass(slots=True)
class _Call:
    """A tool call in pieces."""

    index: int
    """The upstream's."""
    id: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Generated:
    """One answer of the model, gathered while it is streamed."""

    max_tokens: int
    """The longest answer that was asked for."""
    server: str
    """What it is called in errors."""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's, those that were worked on before."""
    _calls: list[_Call] = field(default_factory=list)
    _places: dict[int, int] = field(default_factory=dict)
    """Of the upstream's indices in the list of calls."""
    _taken_bytes: int = 0

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The native tool calls, in order."""
        return tuple(
            ToolCall("".join(call.id) or f"call_{index}", "".join(call.name), "".join(call.arguments) or "{}")
            for index, call in enumerate(sorted(self._calls, key=lambda call: call.index))
        )

    async def read(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Piece]:
        """Read the stream to its end; yields what a user may see, as it comes. Raises as ``pieces``."""
        async for piece in self.pieces(chunks):
            if piece.text or piece.reasoning:
                yield piece

    async def pieces(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Piece]:
        """Read the stream to its end; yields what it brings, fragments of calls included.

        Raises:
            UpstreamError: The stream broke off, holds what is no event, or goes on far beyond ``max_tokens``.
        """
        ended = False
        async for data in events(chunks, server=self.server):
            if data == b"[DONE]":
                ended = True
            else:
                piece = self._take(self._decoded(data))
                self._add_taken(_KEPT_BYTES, piece.text, piece.reasoning)
                if piece.text or piece.reasoning or piece.calls:
                    yield piece
        if not ended and not self.finish_reason:
            raise UpstreamError(f"{self.server}'s stream ended before its answer did")

    def _decoded(self, data: bytes) -> _Chunk:
        try:
            return msgspec.json.decode(data, type=_Chunk)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            message = f"{self.server}'s stream holds what is no event of a chat: {data[:80]!r}"
            raise UpstreamError(message) from exc

    def _add_taken(self, more_bytes: int, *texts: str) -> None:
        self._taken_bytes += more_bytes + sum(map(len, texts))
        if self._taken_bytes > bound_bytes(self.max_tokens):
            raise UpstreamError(
                f"{self.server} goes on and on, where {self.max_tokens} tokens were asked for; it was broken off after "
                f"{format_bytes(self._taken_bytes)}"
            )

    def _take(self, chunk: _Chunk) -> Piece:
        if (error := bytes(chunk.error)) not in {b"", b"null"}:
            words = words_of(b'{"error":%b}' % error)
            raise UpstreamError(f"{self.server} broke off: {words}")
        if chunk.usage is not None:
            self.prompt_tokens, self.completion_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            details = chunk.usage.prompt_tokens_details
            self.cached_tokens = min((details and details.cached_tokens) or 0, self.prompt_tokens)
        if not chunk.choices:
            return Piece()
        choice = chunk.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        fragments = tuple(map(self._add_fragment, choice.delta.tool_calls or ()))
        return Piece(choice.delta.content or "", choice.delta.reasoning_content or "", fragments)

    def _add_fragment(self, fragment: Fragment) -> Fragment:
        """Returns it under the place of its call. Some servers send all calls under index 0 (ollama#7881)."""
        place, function = self._places.get(fragment.index), fragment.function
        if place is None or (function.name and fragment.id not in {None, "", "".join(self._calls[place].id)}):
            self._add_taken(_CALL_BYTES)
            place = self._places[fragment.index] = len(self._calls)
            self._calls.append(_Call(fragment.index))
        call = self._calls[place]
        for pieces, piece in ((call.id, fragment.id), (call.name, function.name), (call.arguments, function.arguments)):
            if piece:
                self._add_taken(_KEPT_BYTES, piece)
                pieces.append(piece)
        return msgspec.structs.replace(fragment, index=place)


async def events(chunks: AsyncIterator[bytes], *, server: str) -> AsyncIterator[bytes]:
    """The data of each server-sent event, however the bytes are cut. Raises UpstreamError at one over 4 MiB."""
    rest = bytearray()  # grows in place: a line that comes byte by byte is not copied for each
    async for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()
        if len(rest) > _EVENT_BYTES:
            raise UpstreamError(f"{server} sent an event without end")
