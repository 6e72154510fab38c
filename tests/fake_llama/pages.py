"""Every answer that is no completion: models, properties, counts, vectors, ranks, metrics. No clock, no socket."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Callable
from typing import Any

from tests.fake_llama.answers import Body, Refusal, pieces, prompt_of
from tests.fake_llama.options import Options
from tests.fake_llama.script import Script
from tests.fake_llama.slots import Slots

EMBEDDING_DIMENSIONS = 8


class Pages:
    """What one server says of itself and of texts; token ids are given out as pieces of text turn up."""

    def __init__(self, options: Options, script: Script, slots: Slots, *, created: int) -> None:
        """``created``, in seconds since 1970, is shown with the model."""
        self._options = options
        self._script = script
        self._slots = slots
        self._created = created
        self._vocabulary: list[str] = []
        self.routes: dict[tuple[str, str], Callable[[Body], Any]] = {
            ("GET", "/health"): lambda _: {"status": "ok"},
            ("GET", "/models"): self._models,
            ("GET", "/props"): self._props,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/apply-template"): lambda body: {"prompt": prompt_of("chat", body)},
            ("POST", "/chat/completions/input_tokens"): self._input_tokens,
            ("POST", "/embeddings"): self._embeddings,
            ("POST", "/rerank"): self._rerank,
        }

    def metrics(self) -> str:
        """Counters, in Prometheus' text format."""
        if not self._options.metrics:
            raise Refusal(501, "This server does not support metrics endpoint. Start it with `--metrics`")
        slots = self._slots
        decoded = slots.decoded + sum(generation.decoded for generation in slots.generations())
        values = {
            "tokens_predicted_total": ("counter", decoded),
            "requests_processing": ("gauge", slots.active),
            "requests_deferred": ("gauge", slots.queued),
        }
        lines = [f"# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n" for name, (kind, value) in values.items()]
        return "".join(lines)

    def _models(self, _: Body) -> Body:
        name = self._options.alias
        modalities = {"input_modalities": ["text"], "output_modalities": ["text"]}
        sizes = {"n_vocab": 49152, "n_ctx": self._slots.n_ctx, "n_ctx_train": 8192, "n_embd": 576}
        model = {
            "id": name,
            "aliases": [name],
            "tags": [],
            "object": "model",
            "architecture": modalities,
            "created": self._created,
            "owned_by": "llamacpp",
            "meta": {"vocab_type": 2, **sizes, "n_params": 134515008, "size": 96576768, "ftype": "Q4_1"},
        }
        return {"models": [{"name": name, "model": name, "type": "model"}], "object": "list", "data": [model]}

    def _props(self, _: Body) -> Body:
        tools = self._script.supports_tools
        options = self._options
        return {
            "default_generation_settings": {"params": {"n_predict": -1}, "n_ctx": self._slots.n_ctx},
            "total_slots": self._slots.count,
            "model_alias": options.alias,
            "model_ftype": "Q4_1",
            "model_path": str(options.model),
            "modalities": {"vision": False, "video": False, "audio": False},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": options.metrics,
            "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
            "chat_template_caps": {
                "supports_object_arguments": tools,
                "supports_parallel_tool_calls": tools,
                "supports_preserve_reasoning": False,
                "supports_reasoning_effort": False,
                "supports_string_content": True,
                "supports_system_role": True,
                "supports_tool_calls": tools,
                "supports_tools": tools,
                "supports_typed_content": False,
            },
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "build_info": "b0-fake",
            "is_sleeping": False,
        }

    def _tokenize(self, body: Body) -> Body:
        found = [(self._id_of(piece), piece) for piece in pieces(body.get("content", ""))]
        if body.get("with_pieces"):
            return {"tokens": [{"id": number, "piece": piece} for number, piece in found]}
        return {"tokens": [number for number, _ in found]}

    def _id_of(self, piece: str) -> int:
        if piece not in self._vocabulary:
            self._vocabulary.append(piece)
        return self._vocabulary.index(piece)

    def _detokenize(self, body: Body) -> Body:
        known = dict(enumerate(self._vocabulary))
        return {"content": "".join(known.get(number, "?") for number in body.get("tokens", []))}

    def _input_tokens(self, body: Body) -> Body:
        return {"input_tokens": len(pieces(prompt_of("chat", body))), "object": "response.input_tokens"}

    def _embeddings(self, body: Body) -> Body:
        if not self._options.embeddings:
            raise Refusal(501, "This server does not support embeddings. Start it with `--embeddings`")
        given = body.get("input", body.get("content"))
        if given is None:
            raise Refusal(400, '"input" or "content" must be provided')
        form = body.get("encoding_format") or "float"
        if form not in {"float", "base64"}:
            raise Refusal(400, "The format to return the embeddings in. Can be either float or base64")
        # A string, or one list of token ids, is one input; a list of either is many.
        many = isinstance(given, list) and not all(isinstance(item, int) for item in given)
        inputs = given if many else [given]
        tokens = sum(len(item) if isinstance(item, list) else len(pieces(item)) for item in inputs)
        data = [_embedding(index, item, form) for index, item in enumerate(inputs)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"model": self._options.alias, "object": "list", "usage": usage, "data": data}

    def _rerank(self, body: Body) -> Body:
        if not (self._options.embeddings and self._options.pooling == "rank"):
            raise Refusal(501, "This server does not support reranking. Start it with `--reranking`")
        query, documents = body.get("query"), body.get("documents")
        if query is None:
            raise Refusal(400, '"query" must be provided')
        if not (isinstance(documents, list) and documents and all(isinstance(each, str) for each in documents)):
            raise Refusal(400, '"documents" must be a non-empty string array')
        asked = {piece.strip() for piece in pieces(query)}
        results: list[Body] = [
            {"index": index, "relevance_score": float(sum(piece.strip() in asked for piece in pieces(document)))}
            for index, document in enumerate(documents)
        ]
        results.sort(key=lambda result: result["relevance_score"], reverse=True)
        tokens = sum(len(asked) + len(pieces(document)) for document in documents)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        best = results[: body.get("top_n", len(results))]
        return {"model": self._options.alias, "object": "list", "usage": usage, "results": best}


def _embedding(index: int, item: Any, form: str) -> Body:
    """A vector that depends on the text alone: equal texts are equal, and no two others."""
    digest = hashlib.sha256(repr(item).encode()).digest()
    numbers = [byte / 128 - 1 for byte in digest[:EMBEDDING_DIMENSIONS]]
    if form == "float":
        return {"embedding": numbers, "index": index, "object": "embedding"}
    packed = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    return {"embedding": packed, "index": index, "object": "embedding", "encoding_format": "base64"}


def without_version(path: str) -> str:
    """``/v1/models`` and ``/models`` are one route."""
    return re.sub(r"^/v1(?=/)", "", path)
