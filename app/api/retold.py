"""A lease's answer to a request of a dialect: asked for as a chat, told as it comes or whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from app.api.anthropic import read_count, read_message
from app.api.dialect import Asked, Telling
from app.api.reply import Reply
from app.api.responses import read_response
from app.chat.stream import Generated
from app.errors import BadRequestError
from app.fleet.lease import Lease
from app.fleet.upstream import TokenCount

_CHAT = "/v1/chat/completions"
_UNBOUNDED_TOKENS = 131_072
"""What an answer may be long in our memory where its request does not say it."""


class Dialect(NamedTuple):
    """A route that speaks of a chat in other words."""

    read: Callable[[bytes], Asked]
    counts: bool = False
    """Whether the prompt is only to be counted."""


DIALECTS = {
    "/v1/responses": Dialect(read_response),
    "/v1/messages": Dialect(read_message),
    "/v1/messages/count_tokens": Dialect(read_count, counts=True),
}


class _Counted(Struct):
    input_tokens: TokenCount


async def count(lease: Lease, asked: Asked, reply: Reply) -> None:
    """Answer with the length of the prompt, by the engine's own tokenizer. Nothing is generated.

    Raises:
        BadRequestError: The model runs on a server that does not count, or the engine refused the request.
        UpstreamError: It broke off.
    """
    if not lease.upstream.is_llama_server:
        raise BadRequestError(f"{lease.spec.key} runs on a server that counts no tokens beforehand", param="model")
    counted = await lease.upstream.ask(f"{_CHAT}/input_tokens", asked.chat, of=_Counted)
    await reply.json(200, {"input_tokens": counted.input_tokens})


async def tell(lease: Lease, asked: Asked, reply: Reply) -> None:
    """Answer. The status line goes out with the first piece, so that an early death is still a 502.

    Raises:
        BadRequestError: The engine refused the request.
        UpstreamError: It broke off, failed, or sent what is no chat.
    """
    chat, streams = asked.chat, bool(asked.chat.stream)
    telling = asked.telling(lease.spec.key)
    generated = Generated(chat.max_tokens or _UNBOUNDED_TOKENS, lease.upstream.server)
    body = msgspec.structs.replace(chat, stream=True, stream_options={"include_usage": True})
    async with await lease.upstream.send(_CHAT, msgspec.json.encode(body)) as answer:
        if answer.status != 200:
            error = await answer.refused()
            if isinstance(error, BadRequestError) and error.param is not None:
                error.param = asked.field  # who made it knew no route
            raise error
        chunks = _with_pings_told(answer.chunks(), telling, reply) if streams else answer.chunks()
        async for piece in generated.pieces(chunks):
            if streams:
                await _begin(telling, reply)
            told = telling.take(piece)
            if streams:
                await reply.more(told)
    if streams:
        await _begin(telling, reply)
        await reply.end(telling.end(generated))
    else:
        await reply.json(200, telling.whole(generated))


async def _begin(telling: Telling, reply: Reply) -> None:
    if not reply.started:
        reply.words = reply.words._replace(event=telling.failed)
        await reply.begin_stream()
        await reply.more(telling.begin())


async def _with_pings_told(chunks: AsyncIterator[bytes], telling: Telling, reply: Reply) -> AsyncIterator[bytes]:
    """The upstream's stream; its pings, which are comments, become the dialect's own: not all clients see comments."""
    async for chunk in chunks:
        if chunk.startswith(b":"):
            await _begin(telling, reply)
            await reply.more(telling.alive())
        yield chunk
