"""Small GGUF files of rerankers that only read (BERT), with random weights and a made-up vocabulary.

Their scores mean nothing. They are told from one another, take the memory that a real reranker of their shape takes,
and lack on demand what makes a model a reranker.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PAD, _UNKNOWN, _CLASS, _SEPARATOR, _MASK = range(len(_SPECIAL))
_WORD = "\u2581"
"""Before a token that begins a word."""

_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")


@dataclass(frozen=True, slots=True)
class RerankerShape:
    """What decides how much memory a reranker takes."""

    name: str
    layers: int = 2
    embedding: int = 64
    feed_forward: int = 128
    heads: int = 4
    vocabulary: int = 1000
    context: int = 512
    """Tokens that it was trained for: it has a vector for each place."""
    ranks: bool = True
    """Whether it has the head that makes a score of a query with a document."""


TINY = RerankerShape("tiny-reranker")
"""One for tests: 0.5 MB."""
RERANKERS = (
    RerankerShape("reranker", layers=6, embedding=384, feed_forward=1536, heads=12, vocabulary=30_522, context=2048),
    RerankerShape("many-words", layers=4, embedding=256, feed_forward=1024, heads=8, vocabulary=150_000, context=8192),
)
"""A usual one, and one of many languages."""


def write_reranker(shape: RerankerShape, path: Path) -> None:
    """Write a file that llama-server loads: ``w0``, ``w1`` ... are its words, and single letters."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_type("model")
    writer.add_name(shape.name)
    writer.add_context_length(shape.context)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if shape.ranks else gguf.PoolingType.MEAN)
    _add_tokenizer(writer, shape.vocabulary)
    random = np.random.default_rng(1)
    for name, size in _tensors(shape).items():
        # Around one what a normalisation multiplies with, around nothing all else.
        centre = 1 if name.endswith("norm.weight") else 0
        values = (random.standard_normal(size, dtype=np.float32) * 0.3 + centre).astype(np.float32)
        writer.add_tensor(name, values.astype(np.float16) if _is_halved(name) else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    """One of the kind that BERT has: whole words, then their parts."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*_SPECIAL, *(_WORD + letter for letter in letters), *letters]
    tokens += [f"{_WORD}w{number}" for number in range(vocabulary - len(tokens))]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(_SPECIAL) + [1] * (vocabulary - len(_SPECIAL)))
    writer.add_token_type_count(2)
    for add, token in (
        (writer.add_pad_token_id, _PAD),
        (writer.add_unk_token_id, _UNKNOWN),
        (writer.add_bos_token_id, _CLASS),
        (writer.add_eos_token_id, _SEPARATOR),
        (writer.add_sep_token_id, _SEPARATOR),
        (writer.add_mask_token_id, _MASK),
    ):
        add(token)


def _tensors(shape: RerankerShape) -> dict[str, tuple[int, ...]]:
    """Names and numpy shapes, rows first."""
    wide, square = shape.embedding, (shape.embedding, shape.embedding)
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (shape.vocabulary, wide),
        "token_types.weight": (2, wide),
        "position_embd.weight": (shape.context, wide),
        **_with_bias("token_embd_norm", (wide,)),
    }
    for layer in range(shape.layers):
        parts = dict.fromkeys(_MATRICES[:4], square)
        parts |= {"ffn_up": (shape.feed_forward, wide), "ffn_down": (wide, shape.feed_forward)}
        for name, size in parts.items():
            tensors |= _with_bias(f"blk.{layer}.{name}", size)
        tensors |= _with_bias(f"blk.{layer}.attn_output_norm", (wide,))
        tensors |= _with_bias(f"blk.{layer}.layer_output_norm", (wide,))
    if shape.ranks:
        tensors |= _with_bias("cls", square) | _with_bias("cls.output", (1, wide))
    return tensors


def _is_halved(name: str) -> bool:
    """Whether it is kept in 16 bits: llama.cpp adds the others to numbers of 32, and aborts over anything else."""
    return name.endswith(("token_embd.weight", *(f"{part}.weight" for part in _MATRICES)))


def _with_bias(name: str, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": size, f"{name}.bias": size[:1]}
