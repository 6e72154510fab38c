"""Small GGUF files of other shapes than the embedded model's, with random weights and a made-up vocabulary.

Nothing sensible comes of them, and they take the memory that a real model of their shape takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how much memory a model takes."""

    name: str
    architecture: str = "llama"
    layers: int = 8
    embedding: int = 512
    feed_forward: int = 1536
    heads: int = 8
    kv_heads: int = 2
    vocabulary: int = 8192
    weights: str = "Q8_0"
    sliding_window: int = 0
    experts: int = 0
    experts_used: int = 0
    key_length: int = 0
    """0: the embedding divided by the heads."""
    labels: tuple[str, ...] = ()
    """What a reranker of Qwen's kind chooses between; none: it generates alone."""

    @property
    def head_size(self) -> int:
        """Values of one head."""
        return self.key_length or self.embedding // self.heads


SHAPES = (
    Shape("grouped", layers=8, heads=8, kv_heads=2),
    Shape("not-grouped", layers=6, heads=8, kv_heads=8, feed_forward=2048),
    Shape("many-tokens", "qwen2", layers=6, embedding=768, heads=12, kv_heads=2, vocabulary=151_936),
    Shape("windows", "gemma3", layers=12, heads=4, kv_heads=1, key_length=256, sliding_window=512, vocabulary=32_768),
    Shape("experts", layers=6, experts=8, experts_used=2, feed_forward=1024),
    Shape("repacked", layers=8, embedding=1024, feed_forward=4096, heads=16, kv_heads=4, weights="Q4_0"),
)
"""Grouped heads and not, a large vocabulary, sliding windows, experts, weights that llama.cpp lays out anew."""


def write_shape(shape: Shape, path: Path) -> None:
    """Write a file that llama-server loads."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_type("model")
    writer.add_name(shape.name)
    writer.add_context_length(131_072)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    if shape.key_length:
        writer.add_key_length(shape.head_size)
        writer.add_value_length(shape.head_size)
    if shape.sliding_window:
        writer.add_sliding_window(shape.sliding_window)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
    if shape.labels:
        writer.add_pooling_type(gguf.PoolingType.RANK)
        writer.add_classifier_output_labels(shape.labels)
    if shape.architecture == "llama":
        writer.add_rope_dimension_count(shape.head_size)
    _add_tokenizer(writer, shape.vocabulary)
    random = np.random.default_rng(1)
    for name, rows_and_columns in _tensors(shape).items():
        values = (random.standard_normal(rows_and_columns, dtype=np.float32) * 0.02).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32 if len(rows_and_columns) == 1 or "ffn_gate_inp" in name else _kind(shape)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        if shape.architecture == "qwen2" and name.rpartition(".")[2] in {"attn_q", "attn_k", "attn_v"}:
            writer.add_tensor(f"{name}.bias", np.zeros(rows_and_columns[0], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(shape: Shape) -> Any:
    return gguf.GGMLQuantizationType[shape.weights]


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    """One of the kind that SentencePiece makes: bytes, then words."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [2, 3, 3, *[6] * 256]
    words = vocabulary - len(tokens)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*tokens, *(f"w{number:x}" for number in range(words))])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([*kinds, *[1] * words])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and numpy shapes, rows first."""
    inner, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd": (shape.vocabulary, shape.embedding),
        "output_norm": (shape.embedding,),
    }
    if shape.labels:
        tensors["cls.output"] = (len(shape.labels), shape.embedding)
    for layer in range(shape.layers):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm": (shape.embedding,),
            "ffn_norm": (shape.embedding,),
            "attn_q": (inner, shape.embedding),
            "attn_k": (kv, shape.embedding),
            "attn_v": (kv, shape.embedding),
            "attn_output": (shape.embedding, inner),
        }
        wide, narrow = (shape.feed_forward, shape.embedding), (shape.embedding, shape.feed_forward)
        if shape.experts:
            parts |= {"ffn_gate_inp": (shape.experts, shape.embedding), "ffn_gate_exps": (shape.experts, *wide)}
            parts |= {"ffn_up_exps": (shape.experts, *wide), "ffn_down_exps": (shape.experts, *narrow)}
        else:
            parts |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": narrow}
        if shape.architecture in {"gemma3", "qwen3"}:
            parts |= {"attn_q_norm": (shape.head_size,), "attn_k_norm": (shape.head_size,)}
        if shape.architecture == "gemma3":
            parts |= {"post_attention_norm": (shape.embedding,), "post_ffw_norm": (shape.embedding,)}
        tensors |= {f"blk.{layer}.{name}": size for name, size in parts.items()}
    return tensors
