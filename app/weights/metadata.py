"""What the metadata of a GGUF file says, key by key: each value is checked where it is read.

Source: ggml's docs/gguf.md, and ``llama_ftype`` of llama.cpp's llama.h for the words of a file type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.weights.reader import BrokenError
from app.weights.vocabulary import Texts

_MAX_NUMBER = 2**32 - 1
_SHOWN_CHARS = 200

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
# fmt: on


@dataclass(frozen=True, slots=True)
class Metadata:
    """The keys and values of a header, as untrustworthy as it is. Raises BrokenError for what no model has."""

    values: Mapping[str, Any]

    def text(self, key: str) -> str | None:
        """A text, short and harmless to print; None where it says none."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._odd(key)
        return shown(value) or None

    def number(self, key: str) -> int | None:
        """A count; None where it says none, or 0: converters write that for what a model has not."""
        value = self.values.get(key)
        if value is None:
            return None
        if not _is_count(value):
            raise self._odd(key)
        return int(value) or None

    def numbers(self, key: str) -> tuple[int, ...] | None:
        """Counts, of each layer or one for all; None where it says none."""
        value = self.values.get(key)
        if isinstance(value, tuple):
            if not all(_is_count(part) or isinstance(part, bool) for part in value):
                raise self._odd(key)
            return tuple(map(int, value)) or None
        number = self.number(key)
        return None if number is None else (number,)

    def length(self, key: str) -> int:
        """How many texts a list has."""
        value = self.values.get(key)
        return value.count if isinstance(value, Texts) else 0

    def alignment(self) -> int:
        """Tensors begin at multiples of so many bytes."""
        value = self.values.get("general.alignment", 32)
        if not _is_count(value) or value.bit_count() != 1:
            raise self._odd("general.alignment")
        return int(value)

    def quantisation(self) -> str | None:
        """Such as ``Q4_K_M``."""
        number = self.values.get("general.file_type")
        return _FILE_TYPES.get(number & ~_GUESSED) if isinstance(number, int) else None

    def knows_tools(self) -> bool:
        """Whether a chat template speaks of tools."""
        template = self.values.get("tokenizer.chat_template")
        speaks_of_them = isinstance(template, str) and re.search(r"\btools\b", template) is not None
        # Some models have a second template for when there are tools, which llama.cpp takes then.
        return speaks_of_them or "tokenizer.chat_template.tool_use" in self.values

    def base_names(self) -> tuple[str, ...]:
        """What it was made from."""
        count = min(self.number("general.base_model.count") or 0, 16)
        names = (self.text(f"general.base_model.{index}.name") for index in range(count))
        return tuple(name for name in names if name)

    def _odd(self, key: str) -> BrokenError:
        return BrokenError(f"has {shown(repr(self.values[key]))} for {shown(key)}, which no model has")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER


def shown(text: str) -> str:
    """Text of the file's, short and harmless to print."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:_SHOWN_CHARS])
