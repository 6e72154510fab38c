"""What a turn reads of a long conversation, and shows of it: the end, cut where it was cut before while that fits."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chat.events import HistoryCut, TurnEvent
from app.chat.history import Counted, cut
from app.chat.results import with_short_results
from app.chat.window import Window
from app.errors import BadRequestError
from app.messages import Message, ToolCall
from app.store import tree
from app.store.db import Database
from app.store.records import Again, OpenTurn, SessionKey, StoredMessage
from app.store.sessions import Sessions

KEY = SessionKey("me", "s")
BUDGET_TOKENS = 40
ROUND = [Message("assistant", "", (ToolCall("c", "t", "{}"),)), Message("tool", "x " * 90, tool_call_id="c")]


def words(message: Message) -> int:
    return len(message.content.split())


class Words:
    """Counts a word as a token; stands in for Models."""

    async def count(self, upstream: object, counted_by: str, message: Message) -> int:
        return words(message)


CALL: Any = SimpleNamespace(
    lease=SimpleNamespace(upstream=None, counted_by="m:1"),
    template=SimpleNamespace(base_tokens=0, context_tokens=1_000_000),
    sampling=SimpleNamespace(max_tokens=0),
    tools=(),
    mode="guided",
    decides_first=False,
    system_text=lambda **_: "",
)


class Talk:
    """A session whose turns read no more than they need."""

    def __init__(self, database: Database) -> None:
        self.database, self.sessions = database, Sessions(database)
        self.told: list[TurnEvent] = []

    async def open(self, text: str, *, most_tokens: int = BUDGET_TOKENS, again: Again | None = None) -> OpenTurn:
        said = [Message("user", text)]
        return await self.sessions.open_turn(
            KEY, said, from_root=False, model="m", again=again, most_tokens=most_tokens
        )

    def window(self, turn: OpenTurn, *, most_tokens: int = BUDGET_TOKENS) -> Window:
        window = Window(cast("Any", Words()), self.told.append, most_tokens=most_tokens)
        window.read(turn)
        return window

    async def close(self, turn: OpenTurn, window: Window, text: str) -> None:
        detail = {} if window.cut is None else {"cut": {name: getattr(window.cut, name) for name in FIELDS}}
        await self.sessions.close_turn(turn.id, Message("assistant", text), counts=window.counts, detail=detail)

    async def say(self, text: str, reply: str, *, most_tokens: int = BUDGET_TOKENS) -> list[str]:
        """One turn: what the model was shown."""
        turn = await self.open(text, most_tokens=most_tokens)
        window = self.window(turn, most_tokens=most_tokens)
        shown = await window.fitting(CALL)
        await self.close(turn, window, reply)
        return [message.content for message in shown]

    async def path(self, leaf: int) -> Sequence[StoredMessage]:
        return await self.database.read(lambda connection: tree.path_to(connection, leaf))


FIELDS = ("messages", "tokens", "shortened", "budget_tokens", "first_kept")


async def short(path: Sequence[StoredMessage]) -> list[Counted]:
    """Messages with their results cut to the budget, as any turn would see them."""

    async def count(message: Message) -> int:
        return words(message)

    branch = [Counted(stored.message, words(stored.message)) for stored in path]
    return await with_short_results(branch, budget_tokens=BUDGET_TOKENS, count=count)


LENGTHS = st.sampled_from([1, 1, 3, 8, 20, 45])
STEP = st.tuples(LENGTHS, LENGTHS, st.sampled_from([0, 0, 1]), st.sampled_from([None] * 5 + [0.3, 0.9]))
STEPS = st.lists(STEP, min_size=4) | st.tuples(LENGTHS, LENGTHS, st.just(0), st.none()).map(lambda step: [step] * 20)
"""Where all turns are alike, cuts that began elsewhere never come to the same place."""


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, repeated=st.integers(1, 6))
def test_end_of_a_conversation_fits_and_its_beginning_moves_only_when_the_budget_is_full(
    steps: list[Any], repeated: int
) -> None:
    """On every branch, after tool rounds and turns that failed; and what is said of it counts from the root."""

    async def scene(folder: str) -> None:
        database = await Database.open(Path(folder) / "airlab.db")
        try:
            await follow(Talk(database), steps * repeated)
        finally:
            await database.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scene(folder))


async def follow(talk: Talk, steps: list[tuple[int, int, int, float | None]]) -> None:
    users: list[int] = []
    for number, (asked, answered, rounds, edits) in enumerate(steps):
        again = None if edits is None or not users else Again("edit", users[int(edits * len(users))])
        turn = await talk.open(f"{number} " + "u " * asked, again=again)
        window, leaf = talk.window(turn), turn.path[-1].id
        fits = await agree(turn, window, await talk.path(leaf))
        for _ in range(rounds if fits else 0):
            ids = await talk.sessions.append(turn.id, ROUND)
            window.add(ids, ROUND)
            fits = await agree(turn, window, await talk.path(ids[-1]))
        if not fits:
            await talk.sessions.end_turn(turn.id, "failed", "too long")
            continue
        assert turn.user_message_id is not None
        users.append(turn.user_message_id)
        await talk.close(turn, window, "a " * answered)


async def agree(turn: OpenTurn, window: Window, path: Sequence[StoredMessage]) -> bool:
    """Hold what a window shows against the whole path; False where the last turn alone is too long, and it says so."""
    try:
        shown = await window.fitting(CALL)
    except BadRequestError:
        begins = max(at for at, stored in enumerate(path) if stored.message.role == "user")
        assert sum(item.tokens for item in await short(path[begins:])) > BUDGET_TOKENS
        return False
    left_out = window.cut.messages if window.cut else 0
    expected = await short(path[left_out:])
    assert shown == [item.message for item in expected]
    assert sum(item.tokens for item in expected) <= BUDGET_TOKENS
    assert left_out == 0 or path[left_out].message.role == "user"
    if window.cut:
        tokens = sum(words(stored.message) for stored in path[:left_out])
        assert (window.cut.tokens, window.cut.first_kept) == (tokens, path[left_out].id)
    if turn.earlier.messages == 0:
        assert left_out == cut(await short(path), budget_tokens=BUDGET_TOKENS)
    elif turn.last_cut is not None:
        assert path[turn.last_cut.messages].id == turn.last_cut.first_kept
        whole = sum(item.tokens for item in await short(path[turn.last_cut.messages :]))
        assert (left_out == turn.last_cut.messages) == (whole <= BUDGET_TOKENS)
    return True


@pytest.fixture
async def talk(tmp_path: Path) -> Any:
    database = await Database.open(tmp_path / "airlab.db")
    yield Talk(database)
    await database.close()


async def fill(talk: Talk, messages: int) -> None:
    """A conversation of so many messages of three words each, that nobody counted."""
    turn = await talk.open("a first line")
    said = [Message("assistant" if at % 2 else "user", f"a line {at}") for at in range(messages - 2)]
    leaf = turn.path[-1].id
    await talk.database.write(
        lambda c: tree.add(c, (1, turn.id), leaf, [Message("assistant", "ok ok ok"), *said], at_ms=1)
    )
    (last,) = await talk.database.read(lambda c: c.execute("SELECT max(id) FROM messages").fetchone())
    await talk.database.write(lambda c: c.execute("UPDATE turns SET leaf = ? WHERE id = ?", (last, turn.id)))
    await talk.sessions.close_turn(turn.id, Message("assistant", "done done."))


async def test_turn_reads_the_end_of_a_long_conversation_and_knows_what_stands_before(talk: Talk) -> None:
    await fill(talk, 3000)
    for _ in range(2):  # by counting once, and from then on by what the turn before wrote down
        turn = await talk.open("next")
        whole = await talk.path(turn.path[-1].id)
        window = talk.window(turn)
        await window.fitting(CALL)
        assert len(turn.path) < 100
        assert turn.path[0].message.role == "user"
        assert turn.earlier.messages + len(turn.path) == len(whole)
        assert isinstance(window.cut, HistoryCut)
        assert whole[window.cut.messages].id == window.cut.first_kept
        await talk.close(turn, window, "fine")


async def test_cut_stays_where_it_is_until_the_budget_is_full_again(talk: Talk) -> None:
    """However much is read: the engine's prefix cache lives of it."""
    await fill(talk, 3000)
    firsts = [(await talk.say(f"more {number}", "ok ok ok"))[0] for number in range(12)]
    assert 1 < len(set(firsts)) <= 5


async def test_larger_budget_shows_again_what_a_smaller_one_left_out(talk: Talk) -> None:
    small, large, small_again = [
        [await talk.say("one two three four", "one two three", most_tokens=most_tokens) for _ in range(turns)][-1]
        for most_tokens, turns in ((BUDGET_TOKENS, 20), (100, 1), (BUDGET_TOKENS, 1))
    ]
    lengths = [sum(len(text.split()) for text in shown) for shown in (small, large, small_again)]
    assert lengths[0] <= BUDGET_TOKENS < lengths[1] <= 100
    assert lengths[2] <= BUDGET_TOKENS


async def test_what_was_counted_before_is_not_stored_again(talk: Talk) -> None:
    for _ in range(3):
        await talk.say("one two", "one two three")
    turn = await talk.open("six")
    window = talk.window(turn)
    await window.fitting(CALL)
    assert set(window.counts) == {stored.id for stored in turn.path[-2:]}, "the last answer and the new question"
    await talk.close(turn, window, "end")


@pytest.mark.parametrize("most_tokens", [1, 10_000])
async def test_tail_is_never_without_its_user_message_nor_beyond_the_root(talk: Talk, most_tokens: int) -> None:
    turn = await talk.open("begin", most_tokens=most_tokens)
    await talk.sessions.append(turn.id, ROUND)
    await talk.sessions.end_turn(turn.id, "failed")
    resumed = await talk.sessions.open_turn(
        KEY, [], from_root=False, model="m", again=Again("resume"), most_tokens=most_tokens
    )
    assert [stored.message.role for stored in resumed.path] == ["user", "assistant", "tool"]
    assert resumed.earlier.messages == 0
    await talk.sessions.end_turn(resumed.id, "failed")
