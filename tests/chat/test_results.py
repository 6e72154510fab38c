"""What tools returned, cut to what a conversation has room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chat.history import Counted, cut
from app.chat.results import MOST_BYTES, share_of_results, with_short_results
from app.messages import Message, ToolCall

USER, ANSWER = Counted(Message("user", "u" * 10), 10), Counted(Message("assistant", "a" * 10), 10)


async def count(message: Message) -> int:
    """A tokenizer to which each character is a token, and each digit three."""
    return sum(3 if character.isdigit() else 1 for character in message.content)


async def told(*contents: str) -> list[Counted]:
    calls = tuple(ToolCall(str(n), "read_file", "{}") for n in range(len(contents)))
    results = [Message("tool", text, tool_call_id=str(n)) for n, text in enumerate(contents)]
    return [Counted(Message("assistant", "", calls), 5), *[Counted(result, await count(result)) for result in results]]


async def test_results_that_have_room_stay_as_they_are() -> None:
    branch = [USER, *await told("x" * 100, "y" * 100), ANSWER, USER]

    assert await with_short_results(branch, budget_tokens=1000, count=count) == branch


async def test_long_result_is_cut_and_the_model_is_told() -> None:
    branch = [USER, *await told("x" * 9000, "short")]
    _, _, long, short = await with_short_results(branch, budget_tokens=1000, count=count)

    assert long.message.content.startswith("x" * 200)
    assert long.message.content.endswith("of 9000 characters, there is no room for more]")
    assert short == branch[-1]


async def test_result_is_cut_to_64_kib_however_large_the_context_is() -> None:
    branch = [USER, *await told("\u00e9" * MOST_BYTES)]
    *_, long = await with_short_results(branch, budget_tokens=10_000_000, count=count)

    assert long.message.content.startswith("\u00e9" * (MOST_BYTES // 2) + "...")
    assert long.message.content.endswith(
        f"first {MOST_BYTES // 2} of {MOST_BYTES} characters, there is no room for more]"
    )
    assert long.tokens == await count(long.message)


@given(st.lists(st.text("a1 ", max_size=4000), min_size=1, max_size=5), st.integers(700, 3000))
async def test_turn_is_never_too_long_for_what_its_tools_returned(contents: list[str], budget_tokens: int) -> None:
    """A failed turn would be the model's only thanks for having read a file."""
    branch = [USER, *await told(*contents)]
    shown = await with_short_results(branch, budget_tokens=budget_tokens, count=count)

    assert cut(shown, budget_tokens=budget_tokens) == 0
    assert [item.message.role for item in shown] == [item.message.role for item in branch]


async def test_cut_result_looks_the_same_when_the_conversation_goes_on() -> None:
    branch = [USER, *await told("x" * 9000)]
    now = await with_short_results(branch, budget_tokens=1000, count=count)
    later = await with_short_results([*branch, ANSWER, USER], budget_tokens=1000, count=count)

    assert later[2].message.content[:400] == now[2].message.content[:400]
    assert cut(later, budget_tokens=1000) == 0


@pytest.mark.parametrize("turn", [[USER], [USER, ANSWER]])
def test_turn_without_results_has_no_share_to_give(turn: list[Counted]) -> None:
    assert share_of_results(turn, 1) == 0
