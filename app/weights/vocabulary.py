"""What a header says of a model's tokens, and whether one model can guess tokens for another.

Source of the rules: llama.cpp's common/speculative.cpp, common_speculative_are_compatible. A llama-server whose draft
model breaks them says so in its log and serves without it, at the cost of its memory until then: so they are judged
here first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.weights.reader import Reader

_TOKENS = "tokenizer.ggml.tokens"
_MOST_TOKEN_BYTES = 65_536
_FIRST, _UNCOMPARED = 1024, 5
"""So many tokens are compared, but for the first few, which are special: other vocabularies differ long before. To read
all of them would take as long as all the rest of a header."""
_MOST_DIFFERENCE = 128
"""Tokens that one may have more than the other: vocabularies are padded to round numbers."""


@dataclass(frozen=True, slots=True)
class Texts:
    """In place of a list of texts: how many they are."""

    count: int
    first: str | None = None
    """Of tokens, a digest of the first ones; None where there are too few of them."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a model; None for what its header does not say."""

    kind: str
    """Such as ``llama``, ``gpt2`` or ``bert``: how text becomes tokens."""
    tokens: int
    first: str | None
    """A digest of the first ones."""
    adds_bos: bool | None = None
    """Whether every text begins with a token of its own."""
    bos: int | None = None
    """The number of that token."""
    adds_eos: bool | None = None
    """The same for the end."""
    eos: int | None = None


def read_texts(reader: Reader, key: str, count: int) -> Texts:
    """Pass over a list of texts, and note what ``Texts`` holds. Raises BrokenError."""
    if key != _TOKENS or count < _FIRST:
        reader.skip_texts(count)
        return Texts(count)
    reader.skip_texts(_UNCOMPARED)
    digest = hashlib.sha256()
    for _ in range(_FIRST - _UNCOMPARED):
        token = reader.text("a token", _MOST_TOKEN_BYTES).encode()
        digest.update(len(token).to_bytes(4) + token)
    reader.skip_texts(count - _FIRST)
    return Texts(count, digest.hexdigest())


def vocabulary_of(value_of: Callable[[str], Any]) -> Vocabulary | None:
    """What the values of a header say of its tokens; what is of another type than it should be counts as not said."""
    kind, tokens = value_of("tokenizer.ggml.model"), value_of(_TOKENS)
    if not isinstance(kind, str) or not isinstance(tokens, Texts):
        return None

    def said(name: str, form: type[Any]) -> Any:
        value = value_of(f"tokenizer.ggml.{name}")
        return value if type(value) is form else None

    return Vocabulary(
        kind,
        tokens.count,
        tokens.first,
        said("add_bos_token", bool),
        said("bos_token_id", int),
        said("add_eos_token", bool),
        said("eos_token_id", int),
    )


def differences(draft: Vocabulary, model: Vocabulary) -> str | None:
    """Why the one cannot guess tokens for the other, as far as their headers say; None where they may well go together.

    llama-server compares all tokens, this only the first ones.
    """
    if draft.kind != model.kind:
        return f"makes tokens in another way ({draft.kind!r:.30}, not {model.kind!r:.30})"
    if abs(draft.tokens - model.tokens) > _MOST_DIFFERENCE:
        return f"has {draft.tokens} tokens, and the model {model.tokens}"
    if draft.first and model.first and draft.first != model.first:
        return "has other tokens than the model"
    ends = (
        (draft.adds_bos, draft.bos, model.adds_bos, model.bos),
        (draft.adds_eos, draft.eos, model.adds_eos, model.eos),
    )
    for what, (adds, token, model_adds, model_token) in zip(("begins", "ends"), ends, strict=True):
        if None not in (adds, model_adds) and (adds != model_adds or (adds and token != model_token)):
            return f"{what} a text with other tokens than the model"
    return None
