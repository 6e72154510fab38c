"""What tools returned, cut to what a conversation has room for: a turn must not fail for a long file.

Only what the model is shown is cut; the store, and the client's ``tool_result``, have all of it. Who counts is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from app.chat.history import KEPT_WHEN_FULL, Counted, turns_of
from app.messages import Message

MOST_BYTES = 64 * 1024
"""Most of one result that a model is shown, however large its context is."""
_NOTE_TOKENS = 32


async def with_short_results(
    branch: Sequence[Counted], *, budget_tokens: int, count: Callable[[Message], Awaitable[int]]
) -> list[Counted]:
    """The branch, each turn's results cut so far that the turn takes a part of the budget and not all of it.

    Which part depends on the budget alone, so that a result looks the same in every later prompt, and the next question
    still finds it there.
    """
    limit_tokens = int(budget_tokens * KEPT_WHEN_FULL)
    fitting: list[Counted] = []
    for whole in turns_of(branch):
        turn = [await _bounded(item, count) for item in whole]
        share, short = share_of_results(turn, limit_tokens), turn
        # Again with less: the beginning of a text may take more tokens than its share of the characters.
        while share > 0 and _length(short) > limit_tokens:
            short = []
            for item in turn:
                message = shortened(item, to_tokens=share)
                short.append(item if message is item.message else Counted(message, await count(message)))
            share = share * 3 // 4
        fitting += short
    return fitting


def share_of_results(turn: Sequence[Counted], limit_tokens: int) -> int:
    """How many tokens each result may have, so that the turn keeps to the limit; 0 where it has none."""
    results = [item.tokens for item in turn if item.message.role == "tool"]
    return max(1, (limit_tokens - _length(turn) + sum(results)) // len(results)) if results else 0


def shortened(item: Counted, *, to_tokens: int) -> Message:
    """A tool's result cut to about so many tokens, and the model told so; the message itself where it is no longer."""
    if item.message.role != "tool" or item.tokens <= to_tokens:
        return item.message
    return _cut(item.message, len(item.message.content) * max(0, to_tokens - _NOTE_TOKENS) // item.tokens)


async def _bounded(item: Counted, count: Callable[[Message], Awaitable[int]]) -> Counted:
    raw = item.message.content.encode(errors="replace")
    if item.message.role != "tool" or len(raw) <= MOST_BYTES:
        return item
    message = _cut(item.message, len(raw[:MOST_BYTES].decode(errors="ignore")))
    return Counted(message, await count(message))


def _cut(message: Message, characters: int) -> Message:
    text = message.content
    note = f"... [cut: these are the first {characters} of {len(text)} characters, there is no room for more]"
    return replace(message, content=text[:characters] + note)


def _length(turn: Sequence[Counted]) -> int:
    return sum(item.tokens for item in turn)
