"""The conversation rules of the product, each as a sentence."""

from __future__ import annotations

import pytest

from app.messages import Message
from app.store.db import Database
from app.store.records import SessionKey
from app.store.tree import _CHILDREN
from tests.store.talk import Talk, answer, messages, texts, tool_round, user


async def test_ten_turns_of_whole_arrays_store_nothing_twice_and_the_path_is_the_array(talk: Talk) -> None:
    """A client that sends everything each time costs no more rows than one that sends what is new."""
    array: list[Message] = []
    for number in range(10):
        array.append(user(f"question {number}"))
        turn = await talk.open(*array, from_root=bool(number))
        assert messages(turn.path) == array
        array.append(answer(f"answer {number}"))
        await talk.sessions.close_turn(turn.id, array[-1])

    assert await talk.stored() == len(array)
    assert await talk.branch() == [message.content for message in array]


async def test_new_messages_go_below_the_active_branch(talk: Talk) -> None:
    await talk.say("one", "first")
    turn = await talk.open(user("two"))

    assert texts(turn.path) == ["one", "first", "two"]


async def test_white_space_round_a_text_does_not_make_it_another(talk: Talk) -> None:
    await talk.say(" one\n", "first ")
    turn = await talk.open(user("one"), answer("first"), user("two"), from_root=True)

    assert texts(turn.path) == [" one\n", "first ", "two"]


@pytest.mark.parametrize("from_root", [False, True])
async def test_retry_of_an_unanswered_message_reuses_it(talk: Talk, from_root: bool) -> None:
    """The client's connection broke; it sends the same again, and must not be taken to have said it twice."""
    await talk.say("one", "first")
    said = [user("one"), answer("first"), user("two")] if from_root else [user("two")]
    lost = await talk.open(*said, from_root=from_root)
    await talk.sessions.append(lost.id, tool_round("a"))
    await talk.sessions.end_turn(lost.id, "cancelled")

    again = await talk.open(*said, from_root=from_root)

    assert again.path == lost.path
    assert messages(again.path)[-1] == user("two")


async def test_other_words_after_an_unanswered_message_leave_it_off_the_branch(talk: Talk) -> None:
    await talk.say("one", "first")
    lost = await talk.open(user("two"))
    await talk.sessions.end_turn(lost.id, "failed", "engine died")

    assert texts((await talk.open(user("three"))).path) == ["one", "first", "three"]


async def test_array_that_keeps_an_unanswered_message_is_taken_at_its_word(talk: Talk) -> None:
    """Two user messages in a row are what such a client shows, so both are in the conversation."""
    await talk.say("one", "first")
    await talk.sessions.end_turn((await talk.open(user("two"))).id, "failed")

    turn = await talk.open(user("one"), answer("first"), user("two"), user("three"), from_root=True)

    assert texts(turn.path) == ["one", "first", "two", "three"]
    assert await talk.stored() == 4


async def test_difference_starts_a_branch_and_the_old_one_stays(talk: Talk) -> None:
    """Editing an earlier message does not lose what came after it."""
    await talk.say("one", "first")
    await talk.say("two", "second")
    await talk.say_all([user("one"), answer("first"), user("TWO")], "other second")

    assert await talk.branch() == ["one", "first", "TWO", "other second"]
    before = await talk.stored()
    old = await talk.open(user("one"), answer("first"), user("two"), answer("second"), from_root=True)
    assert texts(old.path) == ["one", "first", "two", "second"]
    assert await talk.stored() == before


async def test_account_that_differs_from_the_first_message_on_starts_at_the_root(talk: Talk) -> None:
    await talk.say("one", "first")
    turn = await talk.open(user("ONE"), answer("said elsewhere"), user("two"), from_root=True)

    assert messages(turn.path) == [user("ONE"), answer("said elsewhere"), user("two")]
    assert await talk.stored() == 5


async def test_the_same_words_by_another_role_are_a_difference(talk: Talk) -> None:
    await talk.say("one", "first")
    turn = await talk.open(user("one"), user("first"), from_root=True)

    assert messages(turn.path) == [user("one"), user("first")]
    assert await talk.stored() == 3


async def test_after_regenerating_the_client_may_go_on_from_its_first_answer(talk: Talk) -> None:
    """Clients let people page through answers; the one they stay on is the one that counts."""
    array = [user("one"), answer("first"), user("two")]
    await talk.say("one", "first")
    kept = await talk.say_all(array, "an answer")
    other = await talk.say_all(array, "another answer")
    assert await talk.branch() == ["one", "first", "two", "another answer"]

    turn = await talk.open(*array, answer("an answer"), user("three"), from_root=True)

    ids = [stored.id for stored in turn.path]
    assert kept in ids
    assert other not in ids


async def test_longest_match_wins_among_answers_with_the_same_words(talk: Talk) -> None:
    """Only what was said afterwards tells which tool rounds lie behind this conversation."""
    array = [user("one"), answer("first"), user("two")]
    await talk.say("one", "first")
    await talk.say_all(array, "done", tool_round("a"))
    went_on = await talk.say_all([*array, answer("done"), user("three")], "third")
    await talk.say_all(array, "done", tool_round("b", "c"))
    before = await talk.stored()

    turn = await talk.open(*array, answer("done"), user("three"), answer("third"), from_root=True)

    assert turn.path[-1].id == went_on
    assert messages(turn.path)[3:5] == tool_round("a")
    assert await talk.stored() == before


async def test_newest_of_equal_matches_is_continued(talk: Talk) -> None:
    array = [user("one"), answer("first"), user("two")]
    await talk.say("one", "first")
    await talk.say_all(array, "done", tool_round("a"))
    await talk.say_all(array, "done", tool_round("b", "c"))

    turn = await talk.open(*array, answer("done"), user("three"), from_root=True)

    assert messages(turn.path)[3:6] == tool_round("b", "c")


async def test_tool_rounds_between_matched_messages_are_part_of_the_path(talk: Talk) -> None:
    """The client never saw them; the model needs them."""
    rounds = [*tool_round("a", "b"), *tool_round("c")]
    await talk.say("one", "first", rounds)
    turn = await talk.open(user("one"), answer("first"), user("two"), from_root=True)

    assert messages(turn.path) == [user("one"), *rounds, answer("first"), user("two")]


async def test_tool_rounds_reasoning_and_system_messages_of_the_client_do_not_count(talk: Talk) -> None:
    await talk.say("one", "first")
    array = [Message("system", "Be kind."), user("one"), *tool_round("x")]
    array += [Message("assistant", "first", reasoning="hm"), user("two")]
    turn = await talk.open(*array, from_root=True)

    assert messages(turn.path) == [user("one"), answer("first"), user("two")]
    assert await talk.stored() == 3


async def test_after_a_reset_the_same_first_message_begins_an_empty_branch(talk: Talk) -> None:
    await talk.say("one", "first")
    await talk.say("two", "second")
    await talk.sessions.reset(talk.key)
    assert await talk.branch() == []

    turn = await talk.open(user("one"))

    assert texts(turn.path) == ["one"]
    assert await talk.stored() == 4, "what was said is kept, and found again"
    await talk.sessions.close_turn(turn.id, answer("first anew"))
    assert await talk.branch() == ["one", "first anew"]


async def test_reset_of_an_unknown_session_creates_it(talk: Talk) -> None:
    await talk.sessions.reset(talk.key)

    view = await talk.sessions.view(talk.key)
    assert view is not None
    assert view.branch == ()


async def test_two_owners_with_the_same_session_id_are_strangers(database: Database) -> None:
    """The id is the client's to choose, so it must open nobody else's conversation."""
    mine, theirs = Talk(database, SessionKey("alice", "default")), Talk(database, SessionKey("bob", "default"))
    await mine.say("secret", "kept")

    assert await theirs.branch() == []
    assert await theirs.sessions.view(theirs.key) is None
    await theirs.say_all([user("secret"), answer("kept"), user("more")], "no")
    assert await mine.branch() == ["secret", "kept"]
    assert await mine.stored() == 6


@pytest.mark.parametrize(
    "text", ["", "\x00nul\x00", "half a pair \ud83d", "\U0001f600", "x" * 1_000_000, "'; DROP TABLE--"]
)
async def test_any_text_is_found_again(talk: Talk, text: str) -> None:
    await talk.say(text, text)
    before = await talk.stored()
    turn = await talk.open(user(text), answer(text), from_root=True)

    assert await talk.stored() == before
    assert texts(turn.path) == [text.replace("\ud83d", "\ufffd")] * 2


async def test_each_message_is_found_by_one_look_into_an_index(talk: Talk) -> None:
    """Without it, a long conversation would be read whole for each of its messages."""
    plan = await talk.database.read(lambda c: c.execute(f"EXPLAIN QUERY PLAN {_CHILDREN}", (None, b"", 1)).fetchall())

    assert [row[-1] for row in plan] == [
        "SEARCH messages USING COVERING INDEX messages_by_anchor (anchor=? AND digest=? AND session=?)"
    ]
