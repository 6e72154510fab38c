"""Builds GGUF files byte by byte, good ones and broken ones, for tests that read headers or need a model's file."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

ALIGNMENT = 32
F32 = 0

Value = str | bool | int | float | bytes
"""What stands under a key; bytes stand there as they are, their type first."""


class Tensor(NamedTuple):
    """One entry of the list of tensors, with whatever numbers the test wants."""

    name: str
    shape: tuple[int, ...] = (8,)
    kind: int = F32
    offset: int = 0


def u32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data)) + data


def texts(values: Iterable[str | bytes]) -> bytes:
    """A list of texts, as the value of a key."""
    parts = [text(value) for value in values]
    return u32(9, 8) + u64(len(parts)) + b"".join(parts)


def numbers(*values: int) -> bytes:
    """A list of u32, as the value of a key."""
    return u32(9, 4) + u64(len(values)) + u32(*values)


def value(given: Value) -> bytes:
    """A value with its type before it."""
    match given:
        case bytes():
            return given
        case bool():
            return u32(7) + bytes([given])
        case str():
            return u32(8) + text(given)
        case int():
            return u32(4, given)
        case _:
            return u32(6) + struct.pack("<f", given)


def gguf(
    keys: Mapping[str, Value] | Iterable[tuple[str, Value]],
    tensors: Iterable[Tensor] = (Tensor("t"),),
    *,
    data: bytes = bytes(64),
    version: int = 3,
) -> bytes:
    """A whole file: header, list of tensors, padding, and the tensors' data."""
    pairs = list(keys.items() if isinstance(keys, Mapping) else keys)
    listed = list(tensors)
    built = b"GGUF" + u32(version) + u64(len(listed), len(pairs))
    built += b"".join(text(key) + value(given) for key, given in pairs)
    for tensor in listed:
        built += text(tensor.name) + u32(len(tensor.shape)) + u64(*tensor.shape) + u32(tensor.kind) + u64(tensor.offset)
    return built + bytes(-len(built) % ALIGNMENT) + data


def minimal_gguf(**keys: Value) -> bytes:
    """The smallest file that says it is a model; nothing can be generated with it. Dots are written as ``__``."""
    said: dict[str, Value] = {"general.architecture": "llama", "general.type": "model"}
    return gguf(said | {key.replace("__", "."): given for key, given in keys.items()})


def with_tokens(count: int = 2000, *, kind: str = "gpt2", prefix: str = "t", **keys: Value) -> bytes:
    """The smallest file that says it is a model with a vocabulary."""
    listed = texts(f"{prefix}{number}" for number in range(count))
    return minimal_gguf(tokenizer__ggml__model=kind, tokenizer__ggml__tokens=listed, **keys)


def minimal_adapter(base_name: str | None = None, *, architecture: str = "llama") -> bytes:
    """The smallest file that says it is a LoRA adapter, of the model of that name."""
    said: dict[str, Value] = {"general.architecture": architecture, "general.type": "adapter", "adapter.type": "lora"}
    if base_name is not None:
        said |= {"general.base_model.count": 1, "general.base_model.0.name": base_name}
    return gguf(said)


def shaped_gguf(*, layers: int = 2, layer_bytes: int = 4096, **keys: Value) -> tuple[bytes, int]:
    """The beginning of a model whose memory can be summed up, without its tensors' data; and the whole file's bytes."""
    said: dict[str, Value] = {
        "general.architecture": "llama",
        "general.type": "model",
        "llama.block_count": layers,
        "llama.context_length": 4096,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "tokenizer.ggml.tokens": texts(f"token {number}" for number in range(1000)),
    }
    said |= {key.replace("__", "."): given for key, given in keys.items()}
    tensors = [Tensor(f"blk.{n}.attn_q.weight", (layer_bytes // 4,), offset=n * layer_bytes) for n in range(layers)]
    begins = gguf(said, tensors, data=b"")
    return begins, len(begins) + layers * layer_bytes
