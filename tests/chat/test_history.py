"""What of a client's array is new, and what of a branch still fits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chat.history import Counted, cut, merged, read_account, turns_of
from app.errors import BadRequestError
from app.messages import Message, ToolCall

CALL = ToolCall("c", "get_current_time", "{}")
U, A = Message("user", "u"), Message("assistant", "a")
ASKED, TOLD = Message("assistant", "", (CALL,)), Message("tool", "t", tool_call_id="c")
SYSTEM = Message("system", "be brief")

_rounds = st.lists(st.just([ASKED, TOLD]), max_size=3).map(lambda rounds: [m for r in rounds for m in r])
_turn = st.builds(
    lambda users, rounds, answers: [U] * users + rounds + answers, st.integers(1, 2), _rounds, st.just([A])
)
branches = st.builds(
    lambda turns, rounds, tokens: [
        Counted(message, tokens[index % len(tokens)])
        for index, message in enumerate([m for turn in turns for m in turn] + [U] + rounds)
    ],
    st.lists(_turn, max_size=6),
    _rounds,
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
)


@pytest.mark.parametrize(
    ("messages", "said", "from_root", "system_prompt"),
    [
        ([], (), False, None),
        ([U], (U,), False, None),
        ([U, U], (U, U), False, None),
        ([SYSTEM, U], (U,), False, "be brief"),
        ([Message("system", ""), U], (U,), False, ""),
        ([U, A, U], (U, A, U), True, None),
        ([A, U], (A, U), True, None),
        ([SYSTEM, U, A, U], (U, A, U), True, "be brief"),
        ([U, ASKED, TOLD, A, U], (U, A, U), True, None),
        ([U, ASKED, TOLD, U], (U, U), True, None),
    ],
)
def test_array_with_an_answer_is_the_conversation_and_any_other_is_new(
    messages: list[Message], said: tuple[Message, ...], from_root: bool, system_prompt: str | None
) -> None:
    account = read_account(messages)

    assert (account.said, account.from_root, account.system_prompt) == (said, from_root, system_prompt)
    assert account.is_reset is (not messages)


@pytest.mark.parametrize("messages", [[SYSTEM], [U, A], [A], [TOLD], [SYSTEM, U, A], [ASKED, TOLD]])
def test_array_that_does_not_end_with_the_user_is_refused(messages: list[Message]) -> None:
    with pytest.raises(BadRequestError, match="last message"):
        read_account(messages)


@pytest.mark.parametrize("messages", [[U, SYSTEM, U], [SYSTEM, SYSTEM, U]])
def test_system_message_elsewhere_than_first_is_refused(messages: list[Message]) -> None:
    with pytest.raises(BadRequestError, match="only the first"):
        read_account(messages)


@given(branches, st.integers(0, 400))
def test_cut_branch_fits_keeps_the_newest_turn_and_splits_no_round(branch: list[Counted], budget_tokens: int) -> None:
    newest = sum(item.tokens for item in turns_of(branch)[-1])
    if newest > budget_tokens:
        with pytest.raises(BadRequestError) as caught:
            cut(branch, budget_tokens=budget_tokens)
        assert caught.value.code == "context_length_exceeded"
        return

    first = cut(branch, budget_tokens=budget_tokens)
    kept = branch[first:]

    assert sum(item.tokens for item in kept) <= budget_tokens
    assert kept[0].message.role == "user"
    assert len(kept) >= len(turns_of(branch)[-1])


@given(branches, st.integers(0, 400))
def test_cut_goes_forward_only_as_a_branch_grows(branch: list[Counted], budget_tokens: int) -> None:
    """What was left out stays out: a prompt that began earlier again would lose the engine's prefix cache."""
    turns = turns_of(branch)
    if any(sum(item.tokens for item in turn) > budget_tokens for turn in turns):
        return
    ends = [sum(len(turn) for turn in turns[: count + 1]) for count in range(len(turns))]
    cuts = [cut(branch[:end], budget_tokens=budget_tokens) for end in ends]

    assert all(earlier <= later for earlier, later in pairwise(cuts))


def test_full_history_is_cut_to_a_part_of_the_budget_so_that_the_next_turns_cut_nothing() -> None:
    branch = [Counted(message, 10) for message in [U, A] * 10 + [U]]
    first = cut(branch, budget_tokens=200)

    assert first == 8
    assert cut([*branch, Counted(A, 10), Counted(U, 10)], budget_tokens=200) == first


def test_message_too_long_to_be_answered_does_not_weigh_on_what_comes_after_it() -> None:
    """A client that keeps it in its array must be able to go on: the newest message alone decides."""
    branch = [Counted(U, 1000), Counted(U, 5)]

    assert cut(branch, budget_tokens=100) == 1


@given(branches)
def test_merged_has_no_two_users_in_a_row_and_loses_no_word(branch: list[Counted]) -> None:
    messages = [item.message for item in branch]
    result = merged(messages)

    assert all((a.role, b.role) != ("user", "user") for a, b in pairwise(result))
    assert [m for m in result if m.role != "user"] == [m for m in messages if m.role != "user"]
    words = [word for m in result if m.role == "user" for word in m.content.split("\n\n")]
    assert words == [m.content for m in messages if m.role == "user"]
