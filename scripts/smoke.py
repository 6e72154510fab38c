"""Asks a running AirLab one of everything, as a client would; a line each, exit 1 at the first that fails.

AIRLAB_URL says where it runs, AIRLAB_API_KEY is sent where it is set.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import httpx

URL = os.environ.get("AIRLAB_URL", "http://127.0.0.1:8080").rstrip("/")
ASKED = {"messages": [{"role": "user", "content": "Say hello in three words."}], "max_tokens": 16}
MODEL_START_LIMIT_S = 180  # the first request may have to wait for its model


class WrongAnswerError(Exception):
    """AirLab answered, with something else than what was asked for."""


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code != 200:
        raise WrongAnswerError(f"status {answer.status_code}: {answer.text[:500]}")
    return answer


def health(client: httpx.Client) -> str:
    """The service says how it is."""
    return str(_checked(client.get("/health")).json().get("status"))


def models(client: httpx.Client) -> str:
    """At least one model is on offer."""
    keys = [model["id"] for model in _checked(client.get("/v1/models")).json()["data"]]
    if not keys:
        raise WrongAnswerError("no models")
    return ", ".join(keys)


def chat(client: httpx.Client) -> str:
    """A plain answer."""
    text = _checked(client.post("/v1/chat/completions", json=ASKED)).json()["choices"][0]["message"]["content"]
    return _said(text)


def streamed_chat(client: httpx.Client) -> str:
    """The same as a stream, which must end with its end mark."""
    text, ended = "", False
    with client.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True}) as answer:
        if answer.status_code != 200:
            answer.read()
        _checked(answer)
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            if ended := line == "data: [DONE]":
                break
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                text += choice["delta"].get("content") or ""
    if not ended:
        raise WrongAnswerError("the stream broke off before [DONE]")
    return _said(text)


def completions(client: httpx.Client) -> str:
    """Text continued."""
    asked = {"prompt": "Once upon a time", "max_tokens": 8}
    return _said(_checked(client.post("/v1/completions", json=asked)).json()["choices"][0]["text"])


def embeddings(client: httpx.Client) -> str:
    """A vector for a sentence."""
    vector = _checked(client.post("/v1/embeddings", json={"input": "hello"})).json()["data"][0]["embedding"]
    if not vector:
        raise WrongAnswerError("an empty vector")
    return f"{len(vector)} numbers"


def responses(client: httpx.Client) -> str:
    """A plain answer, in the words of OpenAI's newer protocol."""
    asked = {"input": "Say hello in three words.", "max_output_tokens": 16}
    item = _checked(client.post("/v1/responses", json=asked)).json()["output"][-1]
    return _said(item["content"][0]["text"])


def messages(client: httpx.Client) -> str:
    """The same in the words of Anthropic's protocol."""
    return _said(_checked(client.post("/v1/messages", json=ASKED)).json()["content"][-1]["text"])


def count_tokens(client: httpx.Client) -> str:
    """How long a prompt is."""
    asked = {"messages": ASKED["messages"]}
    return f"{_checked(client.post('/v1/messages/count_tokens', json=asked)).json()['input_tokens']} tokens"


def rerank(client: httpx.Client) -> str:
    """Texts put in order, where there is a model for it."""
    found = _checked(client.get("/models")).json()
    there = {model["key"] for model in found["models"] if model["exists"] and not model["problem"]}
    ranks = [model["id"] for model in found["data"] if "rerank" in model["capabilities"] and model["id"] in there]
    if not ranks:
        return "no model here ranks"
    asked = {"model": ranks[0], "query": "a greeting", "documents": ["hello", "a stone"]}
    results = _checked(client.post("/v1/rerank", json=asked)).json()["results"]
    if sorted(result["index"] for result in results) != [0, 1]:
        raise WrongAnswerError(f"not the two documents, but {results}")
    return f"{ranks[0]}, best first: {[result['index'] for result in results]}"


def _said(text: str) -> str:
    if not text:
        raise WrongAnswerError("not a word")
    return repr(text)


def main() -> int:
    """Ask all of it; the exit code."""
    asks: list[Callable[[httpx.Client], str]] = [health, models, chat, streamed_chat, completions, embeddings, rerank]
    asks += [responses, messages, count_tokens]
    key = os.environ.get("AIRLAB_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=URL, headers=headers, timeout=MODEL_START_LIMIT_S, trust_env=False) as client:
        for ask in asks:
            begin_s = time.monotonic()
            try:
                answer = ask(client)
            except (httpx.HTTPError, WrongAnswerError, LookupError, ValueError) as exc:
                print(f"FAILED  {ask.__name__:14} {URL}: {type(exc).__name__}: {exc}", file=sys.stderr)
                return 1
            print(f"ok      {ask.__name__:14} {time.monotonic() - begin_s:5.2f} s  {answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
