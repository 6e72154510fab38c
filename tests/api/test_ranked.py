"""Texts that are put beside their scores: those that were asked about, whatever the answer says."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from app.api.fields import ChatFields, RerankFields, read_fields
from app.api.ranked import documents_to_return, with_documents
from app.errors import UpstreamError

DOCUMENTS = ["a", "b", "c"]


def asked(**more: Any) -> RerankFields:
    return read_fields(json.dumps({"query": "q", "documents": DOCUMENTS, **more}).encode(), RerankFields)


def answer(*indices: Any, **more: Any) -> bytes:
    results = [{"index": index, "relevance_score": 0.5} for index in indices]
    return json.dumps(
        {"model": "m", "object": "list", "usage": {"total_tokens": 3}, "results": results} | more
    ).encode()


def test_texts_are_returned_where_asked_and_the_wish_goes_no_further() -> None:
    wishing = asked(return_documents=True)

    assert documents_to_return(wishing) == DOCUMENTS
    assert wishing.return_documents is None
    assert documents_to_return(asked()) is None
    assert documents_to_return(asked(return_documents=False)) is None
    assert documents_to_return(read_fields(b'{"messages": [{"role": "user"}]}', ChatFields)) is None


def test_each_text_stands_beside_its_score_and_the_rest_is_as_it_was() -> None:
    found = json.loads(with_documents(answer(2, 0), DOCUMENTS))

    assert found.pop("results") == [
        {"index": 2, "relevance_score": 0.5, "document": {"text": "c"}},
        {"index": 0, "relevance_score": 0.5, "document": {"text": "a"}},
    ]
    assert found == {"model": "m", "object": "list", "usage": {"total_tokens": 3}}


def test_text_is_the_one_that_was_sent_though_the_answer_has_another() -> None:
    other = json.dumps({"results": [{"index": 1, "relevance_score": 1, "document": {"text": "not b"}}]}).encode()

    assert json.loads(with_documents(other, DOCUMENTS))["results"][0]["document"] == {"text": "b"}


@pytest.mark.parametrize(
    "broken",
    [
        answer(3),
        answer(-1),
        answer(0, 1, 0),
        answer(0.5),
        answer(None),
        answer(results=None),
        answer(results={"0": 1}),
        answer(*range(1001)),
        b'[{"index": 0, "score": 1}]',
        b'{"results": [{"relevance_score": 1}]}',
        b'{"results": [{"index": 0}]}',
        b'{"results": [',
        b"\xff",
        b"",
        b"[" * 100_000,
    ],
)
def test_answer_that_ranks_something_else_does_not_go_out(broken: bytes) -> None:
    """A text many times over would make a small answer a very large one."""
    with pytest.raises(UpstreamError, match="to rank the documents"):
        with_documents(broken, DOCUMENTS)


@hypothesis.given(st.binary(max_size=100) | st.lists(st.integers(-2, 5), max_size=5).map(lambda found: answer(*found)))
def test_any_answer_is_one_or_is_refused(body: bytes) -> None:
    with suppress(UpstreamError):
        results = json.loads(with_documents(body, DOCUMENTS))["results"]
        assert all(result["document"]["text"] == DOCUMENTS[result["index"]] for result in results)
