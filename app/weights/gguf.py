"""Reads what a GGUF file says of itself in its header; loads no weights, and trusts nothing that it reads.

Source: ggml's docs/gguf.md, and its gguf.cpp for what llama.cpp refuses, which is refused here first.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from app.errors import WeightsBrokenError
from app.units import MIB
from app.weights.layout import Layout, TensorInfo, layout_of
from app.weights.projector import ARCHITECTURE as PROJECTOR
from app.weights.projector import Projector, projector_of
from app.weights.reader import COPY_AGAIN, U32, U64, BrokenError, CutShortError, Reader
from app.weights.vocabulary import Texts, Vocabulary, read_texts, vocabulary_of

MAX_TEXT_BYTES = MIB
"""One text, such as a chat template; the longest ones in use are below 40 KiB."""
_MAX_KEYS, _MAX_TENSORS = 10_000, 100_000
_MAX_KEY_BYTES, _MAX_TENSOR_NAME_BYTES, _MAX_DIMENSIONS = 65_535, 63, 4
_MAX_NUMBER = 2**32 - 1
_MAX_KEPT = 1024
"""Longer lists of numbers are passed over: they are about tokens, and what is asked for is about layers."""
_SHOWN_CHARS = 200

_NUMBERS = {
    number: struct.Struct(f"<{code}") for number, code in zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
"""How a number is written, by the number of its type."""
_TEXT, _LIST = 8, 9

# fmt: off
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0",
}
"""Words for general.file_type."""
_GUESSED = 1024
"""Added to a file type that a converter guessed."""
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}
"""Values in a block of a tensor, and its bytes, by the tensor's type. One that is newer than this is no mistake."""
# fmt: on


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
    said = _Said(_read_keys(reader, keys))
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
    for _ in range(count):
        key = reader.text("a key", _MAX_KEY_BYTES)
        if key in values or not key:
            raise BrokenError(f"has the key {_shown(key)!r} twice" if key else "has a key without a name")
        values[key] = _read_value(reader, key, reader.number(U32))
    return values


def _read_value(reader: Reader, key: str, kind: int) -> Any:
    if kind in _NUMBERS:
        return reader.number(_NUMBERS[kind])
    if kind == _TEXT:
        return reader.text(f"a text under {_shown(key)}", MAX_TEXT_BYTES)
    if kind == _LIST:
        inner, count = reader.number(U32), reader.number(U64)
        if inner == _TEXT:
            return read_texts(reader, key, count)
        if inner in _NUMBERS:
            return _read_numbers(reader, _NUMBERS[inner], count)
        # Lists of lists have a number, and llama.cpp refuses them as well.
        raise BrokenError(f"has under {_shown(key)} a list of the type {inner}, which there is not")
    raise BrokenError(f"has under {_shown(key)} a value of the type {kind}, which there is not")


def _read_numbers(reader: Reader, form: struct.Struct, count: int) -> tuple[Any, ...] | None:
    if count > _MAX_KEPT:
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
            raise BrokenError(f"has the tensor {_shown(name)!r} twice")
        values, tensor = _read_shape(reader, name)
        offset = reader.number(U64)
        if offset % alignment:
            raise BrokenError(f"has its tensor {_shown(name)!r} at {offset}, no multiple of {alignment}")
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
        raise BrokenError(f"has a tensor {_shown(name)!r} of {dimensions} dimensions, where 4 are the most")
    shape = [reader.number(U64) for _ in range(dimensions)]
    values = math.prod(shape)
    if max(shape, default=0) >= 2**63 or values >= 2**63:
        raise BrokenError(f"has a tensor {_shown(name)!r} of {values} values")
    kind = reader.number(U32)
    block, block_bytes = _BLOCKS.get(kind, (1, None))
    if (shape[0] if shape else 1) % block:
        raise BrokenError(f"has a tensor {_shown(name)!r} with rows of {shape[0]} values, no multiple of {block}")
    return values, TensorInfo(name, kind, None if block_bytes is None else values // block * block_bytes)


@dataclass(frozen=True, slots=True)
class _Said:
    """The keys and values of a header, as untrustworthy as it is."""

    values: Mapping[str, Any]

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._odd(key)
        return _shown(value) or None

    def number(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not _is_count(value):
            raise self._odd(key)
        # Converters write 0 for what a model has not.
        return int(value) or None

    def numbers(self, key: str) -> tuple[int, ...] | None:
        value = self.values.get(key)
        if isinstance(value, tuple):
            if not all(_is_count(part) or isinstance(part, bool) for part in value):
                raise self._odd(key)
            return tuple(map(int, value)) or None
        number = self.number(key)
        return None if number is None else (number,)

    def length(self, key: str) -> int:
        value = self.values.get(key)
        return value.count if isinstance(value, Texts) else 0

    def alignment(self) -> int:
        value = self.values.get("general.alignment", 32)
        if not _is_count(value) or value.bit_count() != 1:
            raise self._odd("general.alignment")
        return int(value)

    def quantisation(self) -> str | None:
        number = self.values.get("general.file_type")
        return _FILE_TYPES.get(number & ~_GUESSED) if isinstance(number, int) else None

    def knows_tools(self) -> bool:
        template = self.values.get("tokenizer.chat_template")
        speaks_of_them = isinstance(template, str) and re.search(r"\btools\b", template) is not None
        # Some models have a second template for when there are tools, which llama.cpp takes then.
        return speaks_of_them or "tokenizer.chat_template.tool_use" in self.values

    def base_names(self) -> tuple[str, ...]:
        count = min(self.number("general.base_model.count") or 0, 16)
        names = (self.text(f"general.base_model.{index}.name") for index in range(count))
        return tuple(name for name in names if name)

    def _odd(self, key: str) -> BrokenError:
        return BrokenError(f"has {_shown(repr(self.values[key]))} for {_shown(key)}, which no model has")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER


def _shown(text: str) -> str:
    """Text of the file's, short and harmless to print."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:_SHOWN_CHARS])
