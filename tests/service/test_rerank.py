"""Rerankers on the whole way: a kind in the manifest, a query with documents, scores; and what is none, refused.

The model is made here, with random weights: its scores mean nothing, and no two documents have the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.devices.resident import resident
from app.units import MIB
from bench.rerankers import TINY, write_reranker
from bench.shapes import Shape, write_shape
from tests.conftest import MakeLab
from tests.support.gguf import Tensor, gguf
from tests.support.service import CHAT, EngineKind, Lab, Service, temporary_lab

RERANK = "/v1/rerank"
RANKS: dict[str, Any] = {"kind": ["rerank"], "context_length": 512}
ASKED: dict[str, Any] = {"model": "ranker", "query": "w1 w2", "documents": ["w1", "w9 w8 w7", "w2 w1"]}


def lab_that_ranks(make_lab: MakeLab, engine: EngineKind = "fake", **models: dict[str, Any]) -> Lab:
    lab = make_lab(engine, models={"small": {}, "ranker": RANKS, **models}, missing=("ranker",))
    lay_ranker(lab)
    return lab


def lay_ranker(lab: Lab) -> None:
    if lab.engine == "fake":
        said = {"general.architecture": "bert", "general.type": "model"}
        lab.weights("ranker").write_bytes(gguf(said, [Tensor("cls.output.weight")]))
    else:
        write_reranker(TINY, lab.weights("ranker"))


@pytest.fixture(scope="module", params=["fake", "embedded", pytest.param("real", marks=pytest.mark.llama)])
def ranking(request: pytest.FixtureRequest) -> Any:
    """A service with a reranker beside a model that chats, on any engine."""
    engine: EngineKind = request.param
    with temporary_lab(engine, models={"small": {}, "ranker": RANKS}, missing=("ranker",)) as lab:
        lay_ranker(lab)
        with lab.serve() as service:
            yield service


def rank(service: Service, **more: Any) -> httpx.Response:
    return service.http.post(RERANK, json=ASKED | more)


def refused(answer: httpx.Response) -> tuple[str, str | None]:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["message"], error["param"]


def test_documents_are_ranked_best_first(ranking: Service) -> None:
    answer = rank(ranking)

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"model", "object", "usage", "results"}
    assert (body["model"], body["object"]) == ("ranker", "list")
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0
    scores = [result["relevance_score"] for result in body["results"]]
    assert sorted(result["index"] for result in body["results"]) == [0, 1, 2]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    assert all(result.keys() == {"index", "relevance_score"} for result in body["results"])


def test_score_of_a_document_does_not_depend_on_its_neighbours(ranking: Service) -> None:
    together = {result["index"]: result["relevance_score"] for result in rank(ranking).json()["results"]}
    alone = [rank(ranking, documents=[each]).json()["results"][0] for each in ASKED["documents"]]

    assert [result["relevance_score"] for result in alone] == pytest.approx([together[n] for n in range(3)], rel=1e-3)


def test_top_n_and_the_texts_are_given_where_asked(ranking: Service) -> None:
    """Some clients wrap each document, and want it back."""
    documents = ["w1", {"text": "w9 w8 w7", "title": "left out"}, "w2 w1"]
    best = rank(ranking).json()["results"]
    answer = rank(ranking, documents=documents, top_n=2, return_documents=True)

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"model", "object", "usage", "results"}
    assert [result["index"] for result in body["results"]] == [result["index"] for result in best[:2]]
    assert [result["document"] for result in body["results"]] == [
        {"text": ASKED["documents"][result["index"]]} for result in best[:2]
    ]
    scores = [result["relevance_score"] for result in body["results"]]
    assert scores == pytest.approx([result["relevance_score"] for result in best[:2]], rel=1e-3)


def test_texts_of_any_script_come_back_as_they_were_sent(ranking: Service) -> None:
    documents = ["naïve \U0001f600", '"quoted" \\ \n', "", "w1\u0000w2"]
    answer = rank(ranking, documents=documents, return_documents=True)

    assert answer.status_code == 200, answer.text
    texts = {result["index"]: result["document"]["text"] for result in answer.json()["results"]}
    assert texts == dict(enumerate(documents))


def test_model_that_ranks_is_asked_for_nothing_else(ranking: Service) -> None:
    """llama-server would answer for embeddings with whatever lies in its memory, and for a chat with a 500."""
    asked: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": "x"}]},
        "/v1/completions": {"prompt": "x"},
        "/v1/embeddings": {"input": "x"},
    }
    for path, body in asked.items():
        message, _ = refused(ranking.http.post(path, json={**body, "model": "ranker"}))
        assert "ranker serves rerank, not " in message


def test_reranker_may_be_the_default_model_and_only_ranks(make_lab: MakeLab) -> None:
    lab = make_lab(models={"ranker": {**RANKS, "preload": True}}, missing=("ranker",))
    lay_ranker(lab)
    with lab.serve() as service:
        ranked = service.http.post(RERANK, json={"query": "w1", "documents": ["w1"]})
        message, _ = refused(service.http.post("/chat", json={"messages": [{"role": "user", "content": "x"}]}))
        sessions = service.http.get("/sessions").raise_for_status().json()["sessions"]

    assert ranked.status_code == 200, ranked.text
    assert "ranker serves rerank, not chat" in message
    assert sessions == []


def test_model_that_does_not_rank_says_the_line_that_one_needs(ranking: Service) -> None:
    message, param = refused(rank(ranking, model="small"))

    assert "small serves chat, not rerank" in message
    assert "`kind: [rerank]`" in message
    assert param == "model"


def test_lists_say_which_model_ranks(ranking: Service) -> None:
    listing = ranking.http.get("/v1/models").json()["data"]

    assert {model["id"]: model["capabilities"] for model in listing} == {"small": ["chat"], "ranker": ["rerank"]}


def test_pair_that_is_longer_than_the_context_is_a_400_that_says_so(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    """Where the context is larger than the model was trained for, llama-server says it in other words."""
    long = {"documents": ["w1", "w1 " * 700]}
    wide = {"small": {}, "ranker": {**RANKS, "context_length": 2048}}
    with lab_that_ranks(make_lab, engine_kind).serve() as service:
        message, param = refused(rank(service, **long))
        fits = rank(service, documents=["w1", "w1 " * 450])
    with lab_that_ranks(make_lab, engine_kind, **wide).serve() as service:
        wider, wider_param = refused(rank(service, **long))

    assert "longer than what this model reads at once" in message
    assert fits.status_code == 200, fits.text
    assert "maximum context length is 512 tokens" in wider
    assert (param, wider_param) == ("documents", "documents")


def test_reranker_of_the_kind_that_chooses_between_words_ranks(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    """Qwen's is a language model with a head of two words: yes, and no."""
    shape = Shape("m", "qwen3", layers=2, embedding=64, feed_forward=96, heads=4, vocabulary=600, labels=("yes", "no"))
    lab = lab_that_ranks(make_lab, engine_kind)
    write_shape(shape, lab.weights("ranker"))
    with lab.serve() as service:
        answer = rank(service)

    assert answer.status_code == 200, answer.text
    assert all(0 < result["relevance_score"] < 1 for result in answer.json()["results"])


def test_model_without_the_head_of_a_reranker_is_not_started(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    """llama-server would start it, and take some number of the model's for a score."""
    lab = lab_that_ranks(make_lab, engine_kind)
    write_reranker(replace(TINY, ranks=False), lab.weights("ranker"))
    with lab.serve() as service:
        answer = rank(service)

    assert answer.status_code == 503, answer.text
    message = answer.json()["error"]["message"]
    assert "ranker.gguf is no reranker, or one that was badly converted" in message
    assert "to fix: take another file, or delete `kind: [rerank]`" in message


def test_reranker_whose_kind_is_forgotten_says_what_to_write(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    lab = lab_that_ranks(make_lab, engine_kind, ranker={"context_length": 512})
    with lab.serve() as service:
        answer = service.chat(model="ranker")

    assert answer.status_code == 503, answer.text
    assert "(bert) writes no text; to fix: say what it serves, `kind: [rerank]`" in answer.json()["error"]["message"]


def test_kind_is_changed_in_the_file_and_in_force_with_the_next_request(make_lab: MakeLab) -> None:
    lab = lab_that_ranks(make_lab, "embedded")
    with lab.serve() as service:
        assert rank(service).status_code == 200
        before = service.engine("ranker").pid
        lab.write_manifest(lab.manifest.read_text().replace('"rerank"', '"embedding"'))
        service.http.post("/manifest/reload").raise_for_status()
        embedded = service.http.post("/v1/embeddings", json={"model": "ranker", "input": "w1"})
        after = service.engine("ranker").pid
        message, _ = refused(rank(service))

    assert embedded.status_code == 200, embedded.text
    assert any(embedded.json()["data"][0]["embedding"])
    assert after != before
    assert "ranker serves embedding, not rerank" in message


def test_long_query_with_many_documents_does_not_fill_the_engine(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    """llama-server makes the query's tokens anew for each document before it looks at any."""
    with lab_that_ranks(make_lab, engine_kind).serve() as service:
        assert rank(service).status_code == 200
        before = resident(service.engine("ranker").pid)
        too_much, param = refused(rank(service, query="w1 " * 100_000, documents=["w1"] * 1000))
        most, _ = refused(rank(service, query="w1 " * 1333, documents=["w1"] * 1000))
        after = resident(service.engine("ranker").pid)

    assert "send fewer documents at once, or a shorter query" in too_much
    assert param == "query"
    assert "longer than what this model reads at once" in most
    assert before is not None
    assert after is not None
    assert after.resident_bytes < before.resident_bytes + 128 * MIB


def test_another_airlab_ranks_for_this_one(make_lab: MakeLab) -> None:
    with lab_that_ranks(make_lab).serve() as far:
        remote = {"remote": {"url": f"{far.url}/v1", "model": "ranker"}, "kind": ["rerank"], "filename": None}
        near_lab = make_lab(models={"ranker": remote}, missing=("ranker",))
        with near_lab.serve() as near:
            answer = rank(near, return_documents=True)

    assert answer.status_code == 200, answer.text
    assert [result["index"] for result in answer.json()["results"]] == [2, 0, 1]
    assert answer.json()["results"][0]["document"] == {"text": "w2 w1"}
