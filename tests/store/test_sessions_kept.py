"""What is kept besides messages: names, answers for retries, branches, settings."""

from __future__ import annotations

import pytest

from app.errors import AlreadyThereError, BadRequestError, PreconditionFailedError, SessionNotFoundError
from app.store import sessions as module
from app.store import tree
from app.store.branches import Branches
from app.store.catalog import Catalog, Change
from app.store.db import Database, now_ms
from app.store.harvest import Harvest, Wanted
from app.store.names import NAME_CHARACTERS, short_name
from app.store.records import Again, Kept, Once, SessionKey, SessionSettings
from tests.store.talk import KEY, Talk, answer, texts, tool_round, user


def once(number: int, owner: str = "use") -> Once:
    return Once(owner, f"key-{number}", b"digest")


async def answered(talk: Talk, number: int, owner: str = "use") -> int:
    turn = await talk.open(user(f"question {number}"))
    kept = Kept(once(number, owner), f"[{number}]")
    return await talk.sessions.close_turn(turn.id, answer(f"answer {number}"), kept=kept)


async def test_kept_answers_are_bounded_in_number_for_each_owner(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_ANSWERS", 3)
    await answered(talk, 0, owner="other")
    ids = [await answered(talk, number) for number in range(5)]

    found = [await talk.sessions.kept(once(number)) for number in range(5)]

    assert [None if kept is None else (kept.events, kept.message_id) for kept in found] == [
        None,
        None,
        *((f"[{number}]", ids[number]) for number in (2, 3, 4)),
    ]
    assert await talk.sessions.kept(once(0, "other")) is not None


async def test_kept_answers_are_forgotten_after_a_day(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    await answered(talk, 0)
    later_ms = now_ms() + module.KEPT_MS
    monkeypatch.setattr(module, "now_ms", lambda: later_ms)

    assert await talk.sessions.kept(once(0)) is None
    await answered(talk, 1)
    rows = await talk.database.read(lambda connection: connection.execute("SELECT key FROM answers").fetchall())
    assert rows == [("key-1",)]


async def test_leaves_are_last_answers_and_no_unanswered_question(database: Database, talk: Talk) -> None:
    async def say(*said: str, root: bool = False) -> int:
        messages = [user(text) if at % 2 == 0 else answer(text) for at, text in enumerate(said)]
        turn = await talk.open(*messages, from_root=root)
        await talk.sessions.append(turn.id, tool_round("c"))
        return await talk.sessions.close_turn(turn.id, answer(f"to {said[-1]}"))

    one = await say("one")
    two = await say("two")
    branch = await say("one", "to one", "zwei", root=True)
    lost = await talk.open(user("lost"))
    await talk.sessions.end_turn(lost.id, "failed")

    info = await Catalog(database).info(KEY)
    assert info is not None
    assert await database.read(lambda connection: tree.leaves(connection, info.row)) == [two, branch]
    assert one not in (two, branch)
    every = [found async for found in Harvest(database).sessions(Wanted("use", all_branches=True))]
    left, right = every[0].branches
    assert [branch.messages[-1].content for branch in (left, right)] == ["to two", "to zwei"]
    assert [message.role for message in left.messages] == ["user", "assistant", "tool", "assistant"] * 2
    assert left.messages[0] is right.messages[0], "what branches share is held once, however long it is"


async def test_a_turn_begins_anew_where_it_is_told_to(database: Database, talk: Talk) -> None:
    turn = await talk.open(user("one"))
    await talk.sessions.append(turn.id, tool_round("c"))
    first = await talk.sessions.close_turn(turn.id, answer("first"))
    (asked, *_) = turn.path

    async def begun(again: Again, *said: str) -> list[str]:
        turn = await talk.sessions.open_turn(
            KEY, [user(text) for text in said], from_root=False, model="m", again=again
        )
        await talk.sessions.end_turn(turn.id, "failed")
        return [stored.message.content for stored in turn.path]

    assert await begun(Again("regenerate")) == await begun(Again("regenerate", asked.id)) == ["one"]
    assert await begun(Again("edit", asked.id), "uno") == ["uno"]
    assert await begun(Again("edit", asked.id), "one") == ["one"]
    broken = await talk.open(user("two"))
    await talk.sessions.append(broken.id, tool_round("d"))
    assert len(await begun(Again("resume"))) == len(turn.path) + 2 + 1 + 1 + 2
    for wrong in (Again("edit", first), Again("regenerate", 999), Again("edit", broken.path[-1].id + 1)):
        with pytest.raises(BadRequestError):
            await begun(wrong, "x")
    with pytest.raises(SessionNotFoundError):
        await Branches(database).require(SessionKey("other", KEY.name), Again("resume"))


async def test_settings_are_kept_as_given_and_a_stale_change_changes_nothing(database: Database) -> None:
    catalog = Catalog(database)
    made = await catalog.create(KEY, Change(title="A", settings={"temperature": 0.0, "enable_tools": False}))
    with pytest.raises(AlreadyThereError):
        await catalog.create(KEY, Change())
    assert made.settings == SessionSettings(temperature=0.0, enable_tools=False)
    changed = await catalog.change(KEY, Change(settings={"temperature": None, "top_k": 0}), version=made.version)
    assert changed.settings == SessionSettings(enable_tools=False, top_k=0)
    with pytest.raises(PreconditionFailedError):
        await catalog.change(KEY, Change(title="B"), version=made.version)
    assert await catalog.info(KEY) == changed
    assert (await catalog.change(KEY, Change(forget_title=True))).title is None
    assert SessionSettings(top_k=1).over(changed.settings) == SessionSettings(enable_tools=False, top_k=1)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", None),
        (" \n\t", None),
        ("---\n```\nHello", "Hello"),
        ("# A title\nand more", "A title"),
        ("a\x1b[2J\u202eb", "a [2J b"),
        ("x" * 100, "x" * (NAME_CHARACTERS - 1) + "…"),
        ("word " * 30, ("word " * 11).strip() + "…"),
    ],
)
def test_a_name_is_the_beginning_of_the_first_line_with_words(text: str, name: str | None) -> None:
    found = short_name(text)

    assert found == name
    assert len(found or "") <= NAME_CHARACTERS


async def test_a_set_name_stays_and_an_automatic_one_is_the_first(talk: Talk, database: Database) -> None:
    for text in ("first", "second"):
        turn = await talk.open(user(text))
        await talk.sessions.close_turn(turn.id, answer("ok"))
    info = await Catalog(database).info(KEY)

    assert info is not None
    assert (info.title, info.titled, info.messages) == ("first", False, 4)
    assert texts(await talk.sessions.branch(KEY)) == ["first", "ok", "second", "ok"]
