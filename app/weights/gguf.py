"""Reads what a GGUF file says of itself in its header; loads no weights, and trusts nothing that it reads.

Source: ggml's docs/gguf.md, and its gguf.cpp for what llama.cpp refuses, which is refused here first.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from app.errors import WeightsBrokenError
from app.units import MIB
from app.weights.layout import Layout, TensorInfo, layout_of
from app.weights.metadata import Metadata, shown
from app.weights.projector import ARCHITECTURE as PROJECTOR
from app.weights.projector import Projector, projector_of
from app.weights.reader import COPY_AGAIN, U32, U64, BrokenError, CutShortError, Reader
from app.weights.vocabulary import Vocabulary, read_texts, vocabulary_of

MAX_TEXT_BYTES = MIB
"""One text, such as a chat template; the longest ones in use are below 40 KiB."""
_MAX_KEYS, _MAX_TENSORS = 10_000, 100_000
_MAX_KEY_BYTES, _MAX_TENSOR_NAME_BYTES, _MAX_DIMENSIONS = 65_535, 63, 4
_MAX_KEPT, _MAX_KEPT_TOGETHER = 1024, 65_536
"""Longer lists of numbers are passed over: they are about tokens, and what is asked for is about layers. No model has
many of those; a header that is full of them would take nine times its length in memory, and seconds of every thread."""

_NUMBERS = {
    number: struct.Struct(f"<{code}") for number, code in zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
"""How a number is written, by the number of its type."""
_TEXT, _LIST = 8, 9

# fmt: off
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}
"""Values in a block of a tensor, and its bytes, by the tensor's type. One that is newer than this is no mistake."""
# fmt: on


_ONLY_READ = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "modern-bert", "jina-bert-v2", "jina-bert-v3"}
)
"""Architectures for which llama.cpp makes no KV cache. Source: create_memory in its llama-model.cpp."""
_RANK_HEADS = frozenset({"cls.weight", "cls.output.weight"})
"""Tensors of which a reranker has one. Its pooling_type need not be said, and old files do not. Without either
llama-server takes any number of the model's for a score, and says nothing."""


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a header says; None, or nothing, for what it does not."""

    architecture: str
    """Such as ``llama`` or ``qwen2``."""
    name: str | None
    kind: str | None
    """``model``, ``adapter``, ``mmproj`` ...; old files do not say."""
    context_length: int | None
    """Tokens that it was trained for."""
    parameters: int | None
    """Values in all tensors; None where the file is one of several parts."""
    quantisation: str | None
    """Such as ``Q4_K_M``."""
    has_chat_template: bool
    knows_tools: bool
    """Whether the template speaks of tools, which is not yet a proof that the model can use them."""
    adapter_type: str | None
    """``lora`` for what can be laid over a model."""
    base_names: tuple[str, ...]
    """What it was made from."""
    block_count: int | None
    embedding_length: int | None
    head_count: tuple[int, ...] | None
    """Attention heads: one number for all layers, or one for each."""
    head_count_kv: tuple[int, ...] | None
    """The same for keys and values."""
    key_length: int | None
    value_length: int | None
    sliding_window: int | None
    """Tokens that a layer with a sliding window looks back."""
    tensor_bytes: int | None
    """All tensors together; None where the file is one of several parts, or has a type newer than AirLab."""
    layout: Layout | None = None
    """What its memory follows from; None where the header does not say, as that of an adapter."""
    vocabulary: Vocabulary | None = None
    """What its tokens are; None for what has none."""
    projector: Projector | None = None
    """What it makes tokens of; None for what is no multimodal projector."""
    ranks: bool | None = None
    """Whether it has the head that makes a score of a query with a document; None where that may be in another part."""

    @property
    def only_reads(self) -> bool:
        """Whether it makes numbers of texts, and no texts: it keeps nothing of what it read, and foretells no token."""
        return self.architecture in _ONLY_READ

    @property
    def is_adapter(self) -> bool:
        """Whether it is no model, and changes one."""
        return self.kind == "adapter"


def read_header(path: Path) -> GgufFacts:
    """What the header of a GGUF file says; 17 ms for 100,000 tokens and merges. At most its first 64 MiB are read.

    Raises:
        WeightsBrokenError: It is no regular file, cannot be read, or llama.cpp could not load it: what is wrong with
            it, and what to do.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise BrokenError("is no regular file", "put a GGUF file there")
            return _facts(Reader(partial(os.pread, descriptor), info.st_size))
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise WeightsBrokenError(f"{path.name} cannot be read: {exc.strerror}; to fix: check its permissions") from exc
    except BrokenError as exc:
        raise WeightsBrokenError(f"{path.name} {exc.what}; to fix: {exc.fix}") from exc


def facts_in(name: str, beginning: bytes | bytearray, size_bytes: int) -> GgufFacts | None:
    """What the header of a file says of which no more is here than its beginning; None where that is too little of it.

    Args:
        name: Of the file, for words.
        beginning: What is here.
        size_bytes: Of the whole file.

    Raises:
        WeightsBrokenError: As ``read_header``.
    """
    try:
        return _facts(Reader(lambda count, position: bytes(beginning[position : position + count]), size_bytes))
    except CutShortError:
        return None
    except BrokenError as exc:
        raise WeightsBrokenError(f"{name} {exc.what}; to fix: {exc.fix}") from exc


def _facts(reader: Reader) -> GgufFacts:
    _check_magic(reader)
    tensors, keys = reader.number(U64), reader.number(U64)
    for count, most, what in ((tensors, _MAX_TENSORS, "tensors"), (keys, _MAX_KEYS, "keys")):
        if count > most:
            raise BrokenError(f"says that it has {count} {what}, where {most} are the most")
    said = Metadata(_read_keys(reader, keys))
    parameters, tensor_infos = _read_tensors(reader, tensors, said.alignment())
    architecture = said.text("general.architecture")
    if architecture is None:
        raise BrokenError("does not say its architecture")
    parts = said.number("split.count") or 1
    is_part = parts > 1

    def number(key: str) -> int | None:
        return said.number(f"{architecture}.{key}")

    def numbers(key: str) -> tuple[int, ...] | None:
        return said.numbers(f"{architecture}.{key}")

    sizes = [tensor.size_bytes for tensor in tensor_infos]
    texts = said.length("tokenizer.ggml.tokens"), said.length("tokenizer.ggml.merges")
    return GgufFacts(
        architecture=architecture,
        name=said.text("general.name"),
        kind=said.text("general.type"),
        context_length=number("context_length"),
        parameters=None if is_part else parameters,
        quantisation=said.quantisation(),
        has_chat_template=isinstance(said.values.get("tokenizer.chat_template"), str),
        knows_tools=said.knows_tools(),
        adapter_type=said.text("adapter.type"),
        base_names=said.base_names(),
        block_count=number("block_count"),
        embedding_length=number("embedding_length"),
        head_count=numbers("attention.head_count"),
        head_count_kv=numbers("attention.head_count_kv"),
        key_length=number("attention.key_length"),
        value_length=number("attention.value_length"),
        sliding_window=number("attention.sliding_window"),
        tensor_bytes=None if is_part or None in sizes else sum(size or 0 for size in sizes),
        layout=layout_of(architecture, tensor_infos, numbers, parts=parts, texts=texts),
        vocabulary=vocabulary_of(said.values.get),
        projector=projector_of(said.values.get) if architecture == PROJECTOR else None,
        ranks=None if is_part else any(tensor.name in _RANK_HEADS for tensor in tensor_infos),
    )


def _check_magic(reader: Reader) -> None:
    if reader.size_bytes == 0:
        raise BrokenError("is empty", COPY_AGAIN)
    magic = reader.number(struct.Struct("4s"))
    if magic != b"GGUF":
        fix = f"{COPY_AGAIN}; in place of a model, a failed download leaves a web page or a pointer to one"
        raise BrokenError(f"is no GGUF file: it begins with {magic!r}", fix)
    version = reader.number(U32)
    if version and version & 0xFFFF == 0:
        raise BrokenError("is a GGUF file for big-endian machines", "get the little-endian one")
    if version not in (2, 3):
        raise BrokenError(f"is a GGUF file of version {version}, and llama.cpp reads 2 and 3")


def _read_keys(reader: Reader, count: int) -> dict[str, Any]:
    """Single numbers and texts, and short lists of numbers, by key."""
    values: dict[str, Any] = {}
    room = _MAX_KEPT_TOGETHER
    for _ in range(count):
        key = reader.text("a key", _MAX_KEY_BYTES)
        if key in values or not key:
            raise BrokenError(f"has the key {shown(key)!r} twice" if key else "has a key without a name")
        values[key] = value = _read_value(reader, key, reader.number(U32), most=min(room, _MAX_KEPT))
        room -= len(value) if isinstance(value, tuple) else 0
    return values


def _read_value(reader: Reader, key: str, kind: int, *, most: int) -> Any:
    if kind in _NUMBERS:
        return reader.number(_NUMBERS[kind])
    if kind == _TEXT:
        return reader.text(f"a text under {shown(key)}", MAX_TEXT_BYTES)
    if kind == _LIST:
        inner, count = reader.number(U32), reader.number(U64)
        if inner == _TEXT:
            return read_texts(reader, key, count)
        if inner in _NUMBERS:
            return _read_numbers(reader, _NUMBERS[inner], count, most)
        # Lists of lists have a number, and llama.cpp refuses them as well.
        raise BrokenError(f"has under {shown(key)} a list of the type {inner}, which there is not")
    raise BrokenError(f"has under {shown(key)} a value of the type {kind}, which there is not")


def _read_numbers(reader: Reader, form: struct.Struct, count: int, most: int) -> tuple[Any, ...] | None:
    if count > most:
        reader.skip(count * form.size)
        return None
    return tuple(reader.number(form) for _ in range(count))


def _read_tensors(reader: Reader, count: int, alignment: int) -> tuple[int, list[TensorInfo]]:
    """Values in all of them, and what each is.

    That they lie within the file is the one thing about them that goes wrong in practice: a copy that was broken off.
    """
    places: dict[str, tuple[int, TensorInfo]] = {}
    parameters = 0
    for _ in range(count):
        name = reader.text("a tensor's name", _MAX_TENSOR_NAME_BYTES)
        if name in places:
            raise BrokenError(f"has the tensor {shown(name)!r} twice")
        values, tensor = _read_shape(reader, name)
        offset = reader.number(U64)
        if offset % alignment:
            raise BrokenError(f"has its tensor {shown(name)!r} at {offset}, no multiple of {alignment}")
        places[name] = offset, tensor
        parameters += values
    begins = -(-reader.position // alignment) * alignment
    needed = max((begins + offset + (tensor.size_bytes or 0) for offset, tensor in places.values()), default=0)
    if needed > reader.size_bytes:
        raise BrokenError(f"has {reader.size_bytes} of {needed} bytes: it is not whole", COPY_AGAIN)
    return parameters, [tensor for _, tensor in places.values()]


def _read_shape(reader: Reader, name: str) -> tuple[int, TensorInfo]:
    """Values in a tensor, and what it is."""
    dimensions = reader.number(U32)
    if dimensions > _MAX_DIMENSIONS:
        raise BrokenError(f"has a tensor {shown(name)!r} of {dimensions} dimensions, where 4 are the most")
    shape = [reader.number(U64) for _ in range(dimensions)]
    values = math.prod(shape)
    if max(shape, default=0) >= 2**63 or values >= 2**63:
        raise BrokenError(f"has a tensor {shown(name)!r} of {values} values")
    kind = reader.number(U32)
    block, block_bytes = _BLOCKS.get(kind, (1, None))
    if (shape[0] if shape else 1) % block:
        raise BrokenError(f"has a tensor {shown(name)!r} with rows of {shape[0]} values, no multiple of {block}")
    return values, TensorInfo(name, kind, None if block_bytes is None else values // block * block_bytes)
