"""A chat's stream as blocks: one after another, each opened, grown and closed."""

from __future__ import annotations

import pytest

from app.api.blocks import Blocks, Step
from app.chat.stream import CallPart, Fragment, Piece
from app.errors import UpstreamError


def call(index: int, name: str | None = None, arguments: str | None = None, call_id: str | None = None) -> Piece:
    return Piece(calls=(Fragment(index, call_id, CallPart(name, arguments)),))


def steps(blocks: Blocks, *pieces: Piece) -> list[tuple[str, str, str]]:
    taken: list[Step] = [step for piece in pieces for step in blocks.take(piece)]
    return [(step.happening, step.block.kind, step.text) for step in [*taken, *blocks.end()]]


def test_thoughts_text_and_calls_are_blocks_that_follow_each_other() -> None:
    blocks = Blocks()

    seen = steps(
        blocks,
        Piece(reasoning="hm"),
        Piece("a"),
        Piece("b"),
        call(0, "add", "", "id0"),
        call(0, None, '{"a":'),
        call(0, None, "1}"),
        call(1, "now", None, "id1"),
    )

    assert seen == [
        ("opened", "thought", ""),
        ("grew", "thought", "hm"),
        ("closed", "thought", ""),
        ("opened", "text", ""),
        ("grew", "text", "a"),
        ("grew", "text", "b"),
        ("closed", "text", ""),
        ("opened", "call", ""),
        ("grew", "call", '{"a":'),
        ("grew", "call", "1}"),
        ("closed", "call", ""),
        ("opened", "call", ""),
        ("closed", "call", ""),
    ]
    assert [(block.index, block.text, block.name, block.call_id) for block in blocks.all] == [
        (0, "hm", "", ""),
        (1, "ab", "", ""),
        (2, '{"a":1}', "add", "id0"),
        (3, "{}", "now", "id1"),
    ]


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    blocks = Blocks()
    steps(blocks, Piece("a"), call(0, "add"), Piece("b"))

    assert [(block.kind, block.text) for block in blocks.all] == [("text", "a"), ("call", "{}"), ("text", "b")]


def test_call_without_an_id_gets_one() -> None:
    blocks = Blocks()
    steps(blocks, call(0, "add"), call(1, "add"))

    assert len({block.call_id for block in blocks.all}) == 2
    assert all(block.call_id.startswith("call_") for block in blocks.all)


@pytest.mark.parametrize(
    "pieces",
    [
        [call(0, None, "{}")],
        [call(0, "add"), call(1, "now"), call(0, None, "{}")],
        [call(0, "add"), Piece("text"), call(0, None, "{}")],
        [call(1, "add"), call(0, "now")],
    ],
    ids=["without a name", "after the next call", "after text", "backwards"],
)
def test_piece_of_a_call_that_cannot_be_told_breaks_the_answer_off(pieces: list[Piece]) -> None:
    with pytest.raises(UpstreamError, match="without a call that it belongs to"):
        steps(Blocks(), *pieces)


def test_nothing_said_is_no_block() -> None:
    blocks = Blocks()

    assert steps(blocks, Piece(), Piece("")) == []
    assert not blocks.calls
