"""What the model sees of a conversation. Pure.

Two questions: what of a client's array is new (``read_account``), and what still fits (``cut``). How the tree in the
store is matched is the store's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import BadRequestError
from app.messages import Message

KEPT_WHEN_FULL = 0.7
"""A full history is cut to this share of its budget and not just below it: cutting at every turn would begin the
prompt anew each time, and the engine's prefix cache with it (first token after 7.0 s instead of 0.7)."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a client's ``messages`` say."""

    said: tuple[Message, ...]
    """Its user and assistant messages, in order, without tool rounds."""
    from_root: bool
    """True when the array is the whole conversation; else it is new and goes to the active branch."""
    system_prompt: str | None
    """The text of a leading system message."""

    @property
    def is_reset(self) -> bool:
        """``[]`` starts an empty branch."""
        return not self.said and self.system_prompt is None


def read_account(messages: Sequence[Message]) -> Account:
    """What a client's array says, by the rules of the conversation.

    Raises:
        BadRequestError: A system message stands elsewhere than first, or the last word is not the user's.
    """
    system_prompt = messages[0].content if messages and messages[0].role == "system" else None
    rest = messages[1:] if system_prompt is not None else messages
    if any(message.role == "system" for message in rest):
        raise BadRequestError("only the first message may be a system message", param="messages")
    # A client may replay the tool rounds it was shown; the store has them already.
    said = tuple(message for message in rest if message.visible)
    if messages and (not said or said[-1].role != "user"):
        raise BadRequestError("the last message must be the user's", param="messages")
    return Account(said, any(message.role == "assistant" for message in rest), system_prompt)


@dataclass(frozen=True, slots=True)
class Counted:
    """A message and its length in tokens, as this model counts."""

    message: Message
    tokens: int


def cut(branch: Sequence[Counted], *, budget_tokens: int) -> int:
    """How many messages are left out at the front, so that the rest fits the budget.

    Whole turns go, oldest first: a turn begins with what the user said, so a call is never split from its result. The
    last turn stays whole. The answer depends on the branch alone, and changes only when the budget is full again.

    Raises:
        BadRequestError: The last turn alone is longer than the budget.
    """
    turns = turns_of(branch)
    lengths = [sum(item.tokens for item in turn) for turn in turns]
    first, total = 0, 0
    for index, length in enumerate(lengths):
        total += length
        if total > budget_tokens:
            while first < index and total > budget_tokens * KEPT_WHEN_FULL:
                total -= lengths[first]
                first += 1
    if total > budget_tokens:
        raise BadRequestError(
            f"the last message needs {total} tokens, and {budget_tokens} are left for the conversation: this model's "
            "maximum context length, or chat.max_conversation_tokens, less the answer and the tools. Send less, or ask "
            "for a smaller max_tokens",
            param="messages",
            code="context_length_exceeded",
        )
    return sum(len(turn) for turn in turns[:first])


def turns_of(branch: Sequence[Counted]) -> list[Sequence[Counted]]:
    """The turns of a branch: one begins at each user message, and the first at 0 whatever is there.

    Also at one that follows another: a message too long to be answered must not weigh on all that come after it.
    """
    starts = [index for index, item in enumerate(branch) if index == 0 or item.message.role == "user"]
    return [branch[start:end] for start, end in zip(starts, [*starts[1:], len(branch)], strict=True)]


def merged(messages: Sequence[Message]) -> list[Message]:
    """Neighbouring user messages as one: strict chat templates refuse two in a row, with a page of template text.

    They come about when a request failed and the client goes on. Always merged, so that the prompt's beginning stays
    the same from turn to turn.
    """
    result: list[Message] = []
    for message in messages:
        if result and message.role == "user" and result[-1].role == "user":
            result[-1] = Message("user", f"{result[-1].content}\n\n{message.content}")
        else:
            result.append(message)
    return result
