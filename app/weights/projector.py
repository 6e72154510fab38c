"""What a header says of a multimodal projector: what it makes tokens of, and what its memory follows from.

A projector is a GGUF file of the architecture ``clip``: an encoder of images, of sound, or one of each. Source: the
keys and the limits of llama.cpp's tools/mtmd/clip.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.weights.reader import BrokenError

ARCHITECTURE = "clip"
_MOST = 1_000_000
_MOST_TOKENS = {
    "qwen2vl_merger": 4096, "qwen2.5vl_merger": 4096, "qwen3vl_merger": 4096, "glm4v": 4096, "kimik25": 4096,
    "pixtral": 1024, "kimivl": 1024, "gemma4v": 1120, "gemma4uv": 1120, "lfm2": 256, "hunyuanvl": 16_384,
}  # fmt: skip
"""Tokens of the largest image, by kind, of those that take images of many sizes; llama.cpp scales larger ones down."""
_USUAL_MERGE = {"pixtral": 1, "gemma4v": 3, "gemma4uv": 3}
"""Patches of a side that become one token, where the header does not say: 2 for most."""


@dataclass(frozen=True, slots=True)
class Projector:
    """One projector. Numbers are 0 where the header does not say them; ``kind`` is llama.cpp's word for it."""

    kind: str
    sees: bool
    """Whether it takes images."""
    hears: bool
    """Whether it takes sound."""
    image_size: int = 0
    """Pixels of a side."""
    patches: int = 0
    """Of the largest image."""
    embedding_length: int = 0
    feed_forward_length: int = 0

    @property
    def modalities(self) -> tuple[str, ...]:
        """What a model with it takes beside text."""
        return (*(("image",) if self.sees else ()), *(("audio",) if self.hears else ()))


def projector_of(value_of: Callable[[str], Any]) -> Projector:
    """Arrange what the values of a header say. Raises BrokenError where a number is none that a projector has."""

    def number(key: str) -> int:
        value = value_of(f"clip.{key}")
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value <= _MOST:
            raise BrokenError(f"has {value!r:.40} for clip.{key}, which no projector has")
        return value

    kinds = (value_of(f"clip.{which}projector_type") for which in ("", "vision.", "audio."))
    kind = next((kind for kind in kinds if isinstance(kind, str)), "")
    # Files of before there was sound say nothing of either.
    hears = value_of("clip.has_audio_encoder") is True
    sees = value_of("clip.has_vision_encoder") is True or not hears
    size, patch = number("vision.image_size"), number("vision.patch_size")
    merge = number("vision.projector.scale_factor") or number("vision.spatial_merge_size") or _USUAL_MERGE.get(kind, 2)
    return Projector(
        kind[:40],
        sees,
        hears,
        size,
        max(
            (size // patch) ** 2 if patch else 0,
            _pixels(value_of("clip.vision.image_max_pixels")) // patch**2 if patch else 0,
            _MOST_TOKENS.get(kind, 0) * merge**2,
        ),
        number("vision.embedding_length"),
        number("vision.feed_forward_length"),
    )


def _pixels(value: Any) -> int:
    return value if type(value) is int and 0 < value <= 2**28 else 0
