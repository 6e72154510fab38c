"""Full-text search: what was typed is words and nothing else, whatever it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.store.db import Database
from app.store.records import SessionKey
from app.store.search import QUERY_CHARACTERS, Search, match_expression, unmarked
from app.store.sessions import Sessions
from tests.store.talk import Talk, answer, user

OWNER = "use"


async def filled(database: Database, *texts: str) -> Search:
    """A session for each text."""
    for at, text in enumerate(texts):
        talk = Talk(database, SessionKey(OWNER, f"s{at}"))
        turn = await talk.open(user(text))
        await talk.sessions.close_turn(turn.id, answer("fine"))
    return Search(database)


async def found(search: Search, text: str) -> list[str]:
    page = await search.page(OWNER, text, limit=50)
    return [found.info.key.name for found in page.found]


@pytest.mark.parametrize(
    "text",
    [
        *('"', "'", 'a" OR "b', "NOT", "a AND", "OR OR", "NEAR(a b, 2)", "content:a", "{content}: a", "^a", "a*", "*"),
        *("-a", "(", ")", "a + b", "\x00", "a\x00b", "\ud800", "'; DROP TABLE sessions; --", "%", "_", "\\", "🙂"),
        *("e\u0301", "²"),
    ],
)
async def test_operators_and_broken_text_are_words_or_nothing(database: Database, text: str) -> None:
    search = await filled(database, "alpha beta")

    assert await found(search, text) == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=()), max_size=QUERY_CHARACTERS))
def test_no_text_breaks_a_search(tmp_path: Path, text: str) -> None:
    async def search() -> None:
        database = await Database.open(tmp_path / "airlab.db")
        try:
            await Search(database).page(OWNER, text, limit=5)
        finally:
            await database.close()

    asyncio.run(search())


async def test_all_words_must_occur_in_one_message_whatever_their_case_and_accents(database: Database) -> None:
    search = await filled(database, "Der Bär brummt", "der Hund bellt", "Ein BAR und der Hund")

    assert await found(search, "bar DER") == ["s2", "s0"]
    assert await found(search, "hund bellt bär") == []
    assert await found(search, "ba") == []


async def test_snippets_mark_the_words_even_where_a_text_holds_marks(database: Database) -> None:
    search = await filled(database, "\x02\x03 one zebra \x02 and Zebra [zebra]")

    [match] = (await search.page(OWNER, "zebra", limit=5)).found[0].matches
    marked = [match.snippet[begin:end] for begin, end in match.highlights]

    assert marked == ["zebra", "Zebra", "zebra"]
    assert match.role == "user"


async def test_of_a_very_long_message_the_beginning_is_shown(database: Database) -> None:
    search = await filled(database, "word " * 50_000 + "needle")

    [match] = (await search.page(OWNER, "needle", limit=5)).found[0].matches
    assert match.snippet.startswith("word word")
    assert len(match.snippet) < 200


async def test_pages_go_on_to_the_last_session(database: Database) -> None:
    search = await filled(database, *("same words" for _ in range(7)))
    seen: list[str] = []
    cursor = None
    while True:
        page = await search.page(OWNER, "same", limit=3, cursor=cursor)
        seen += [found.info.key.name for found in page.found]
        if (cursor := page.next) is None:
            break

    assert seen == [f"s{at}" for at in reversed(range(7))]


async def test_what_others_and_tool_rounds_said_is_not_found(database: Database) -> None:
    search = await filled(database, "mine")
    other = Talk(database, SessionKey("other", "s"))
    turn = await other.open(user("theirs"))
    await Sessions(database).close_turn(turn.id, answer("secret"))

    assert await found(search, "theirs") == []
    assert await found(search, "secret") == []


def test_an_expression_is_quoted_words_and_few_of_them() -> None:
    assert match_expression('say "NEAR" (now)') == '"say" "NEAR" "now"'
    assert match_expression("... !") is None
    assert (match_expression("a " * 100) or "").count('"') == 32


def test_marks_become_places() -> None:
    assert unmarked("a <b>c<d> <b>e<d>", "<b>", "<d>") == ("a c e", ((2, 3), (4, 5)))
