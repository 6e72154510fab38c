"""The stand-in answers in the shapes of the real llama-server: the same fields of the same types, route by route."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fake import fake_llama_server_command

REAL = os.environ.get("AIRLAB_TEST_LLAMA_SERVER")
MODELS = Path(__file__).parent.parent / "models"

SAID = {"messages": [{"role": "user", "content": "Hi there"}]}
# Not sampled: half a letter, or a space that the chat parser swallows, would make an event fewer.
TWO = {"max_tokens": 2, "n_predict": 2, "ignore_eos": True, "temperature": 0, "stream_options": {"include_usage": True}}
TOO_LONG = {"messages": [{"role": "user", "content": "hello world " * 600}]}

EXACT: list[tuple[str, dict[str, Any] | None]] = [
    ("/health", None),
    ("/slots", None),
    ("/v1/chat/completions", SAID | TWO),
    ("/v1/chat/completions", SAID | TWO | {"stream": True}),
    ("/v1/chat/completions", SAID | TWO | {"stream": True, "stream_options": None}),
    ("/v1/completions", {"prompt": "Once"} | TWO),
    ("/v1/completions", {"prompt": "Once", "stream": True} | TWO),
    ("/tokenize", {"content": "hello world"}),
    ("/tokenize", {"content": "hello", "with_pieces": True}),
    ("/detokenize", {"tokens": [1]}),
    ("/apply-template", SAID),
    ("/v1/chat/completions/input_tokens", SAID),
    ("/v1/chat/completions", {}),
    ("/v1/chat/completions", TOO_LONG),
    ("/v1/completions", {}),
    ("/v1/embeddings", {"input": "a"}),
    ("/v1/rerank", {"query": "a", "documents": ["a"]}),
    ("/metrics", None),
    ("/nowhere", None),
]
# Where the fake leaves out what AirLab has no use for.
PARTIAL: list[tuple[str, dict[str, Any] | None]] = [
    ("/v1/models", None),
    ("/props", None),
    ("/completion", {"prompt": "Once"} | TWO),
    ("/completion", {"prompt": "Once", "stream": True} | TWO),
]
EMBEDDINGS: list[tuple[str, dict[str, Any] | None]] = [
    ("/v1/embeddings", {"input": ["a", "b"]}),
    ("/v1/embeddings", {"input": "a", "encoding_format": "base64"}),
    ("/v1/embeddings", {}),
    ("/v1/embeddings", {"input": "a", "encoding_format": "zip"}),
]
RANKS: list[tuple[str, dict[str, Any] | None]] = [
    ("/v1/rerank", {"query": "a b", "documents": ["a", "b", "c"]}),
    ("/v1/rerank", {"query": "a b", "documents": ["a", "b", "c"], "top_n": 1, "return_documents": True}),
    ("/v1/rerank", {"query": "a"}),
    ("/v1/rerank", {"documents": ["a"]}),
    ("/v1/rerank", {"query": "a", "documents": []}),
    ("/v1/rerank", {"query": "a", "documents": [{"text": "a"}]}),
]


@contextmanager
def running(command: Path, model: Path, socket: Path, *flags: str) -> Iterator[httpx.Client]:
    """A client of a server that has loaded; the server is gone when the block ends."""
    arguments = ["--model", str(model), "--host", str(socket), "--alias", "m", "--threads", "1", *flags]
    with subprocess.Popen([command, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert any("model loaded" in line for line in process.stderr)
            # No pool: a connection ends with a stream, and a client that uses it again may learn so too late.
            transport = httpx.HTTPTransport(uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0))
            with httpx.Client(transport=transport, base_url="http://m", timeout=30) as http:
                yield http
        finally:
            process.kill()


def shape(value: Any, path: str = "") -> set[str]:
    """``path: type`` for every leaf; a list is as its first item."""
    if isinstance(value, dict) and value:
        return {leaf for key, item in value.items() for leaf in shape(item, f"{path}.{key}")}
    if isinstance(value, list) and value:
        return shape(value[0], f"{path}[]")
    return {f"{path}: {type(value).__name__}"}


def answers(http: httpx.Client, asked: list[tuple[str, dict[str, Any] | None]]) -> list[tuple[Any, ...]]:
    """Status, headers that matter and shape of each answer; of a stream, of each event that differs from the last."""
    found = []
    for path, body in asked:
        answer = http.get(path) if body is None else http.post(path, json=body)
        if answer.headers["content-type"] == "text/event-stream":
            events = [block.removeprefix("data: ") for block in answer.text.split("\n\n") if block]
            shapes = [
                {"[DONE]"} if event == "[DONE]" else shape(httpx.Response(200, text=event).json()) for event in events
            ]
            body_shape: list[set[str]] = [kind for kind, _ in groupby(shapes)]
        else:
            body_shape = [shape(answer.json())]
        headers = {name: answer.headers.get(name) for name in ("content-type", "connection", "keep-alive")}
        found.append((path, answer.status_code, headers, body_shape))
    return found


@pytest.mark.llama
def test_answers_have_the_fields_and_types_of_the_real_ones(tmp_path: Path) -> None:
    """Tests on the fake prove something about llama-server only as long as this holds."""
    assert REAL
    model = min(MODELS.glob("*.gguf"))
    fake = fake_llama_server_command(tmp_path)
    small = ("--ctx-size", "512", "--parallel", "2")
    with (
        running(Path(REAL), model, tmp_path / "r.sock", *small) as real_http,
        running(fake, model, tmp_path / "f.sock", *small) as fake_http,
    ):
        assert answers(fake_http, EXACT) == answers(real_http, EXACT)
        for mine, theirs in zip(answers(fake_http, PARTIAL), answers(real_http, PARTIAL), strict=True):
            assert mine[:3] == theirs[:3]
            assert [left - right for left, right in zip(mine[3], theirs[3], strict=True) if left - right] == []
    pooled = (*small, "--embeddings", "--pooling", "mean")
    with (
        running(Path(REAL), model, tmp_path / "re.sock", *pooled) as real_http,
        running(fake, model, tmp_path / "fe.sock", *pooled) as fake_http,
    ):
        assert answers(fake_http, EMBEDDINGS) == answers(real_http, EMBEDDINGS)
    # Any model ranks, if nobody looks into its file first.
    ranks = (*small, "--embeddings", "--pooling", "rank")
    with (
        running(Path(REAL), model, tmp_path / "rr.sock", *ranks) as real_http,
        running(fake, model, tmp_path / "fr.sock", *ranks) as fake_http,
    ):
        assert answers(fake_http, RANKS) == answers(real_http, RANKS)
