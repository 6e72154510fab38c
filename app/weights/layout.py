"""What the memory that a model takes follows from: how its bytes lie in its layers, and the sizes of its parts.

Only arranges what ``gguf.py`` read; how much memory that makes is for ``fleet/estimate.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_BLOCK = re.compile(r"blk\.(\d{1,4})\.")
_INPUT = "token_embd.weight"
_REPACKED_TYPES = frozenset({2, 12, 20})
"""Q4_0, Q4_K, IQ4_NL: llama.cpp lays these out anew for the processor, as a copy beside the mapped file."""
_MOST_LAYERS = 512
"""llama.cpp loads no model with more (LLAMA_MAX_LAYERS), and a place is sought for each of them."""

_WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4}
"""Of so many layers in a row all but the last have a sliding window. Source: llama.cpp, set_swa_pattern in load_hparams
of each architecture. One that is not here keeps whole contexts: too much rather than too little."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its name, the number of its type, its bytes (None where the type is newer than AirLab)."""

    name: str
    kind: int
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of one model. Sizes of tensors in bytes, lengths in values."""

    layer_bytes: tuple[int, ...]
    """The tensors of each layer."""
    input_bytes: int
    """The embedding of tokens, which stays in the host's memory wherever the layers lie."""
    output_bytes: int
    """All other tensors; a model that has no output of its own uses its input for it, once more."""
    repacked_bytes: tuple[int, ...]
    """Of each layer, what the processor's backend copies to lay it out anew."""
    parts: int
    """Files that the model lies in; the sizes above are those of the first."""
    tokens: int
    """In its vocabulary."""
    merges: int
    feed_forward_length: int
    """Of the widest layer, times the experts that are used at once."""
    windowed: tuple[bool, ...]
    """For each layer, whether it looks back no further than the sliding window."""
    latent_length: int
    """Values that a layer of latent attention (MLA) keeps for a token in place of keys and values; 0 for none."""


def layout_of(
    architecture: str,
    tensors: Iterable[TensorInfo],
    numbers: Callable[[str], tuple[int, ...] | None],
    *,
    parts: int,
    texts: tuple[int, int],
) -> Layout | None:
    """Arrange it; None where the header does not say how many layers there are, or has a type newer than AirLab.

    Args:
        architecture: Such as ``llama``.
        tensors: All of the file.
        numbers: What the header says under a key of its architecture: one number, or one for each layer.
        parts: Files that the model lies in.
        texts: Lengths of its lists of tokens and merges.
    """

    def number(key: str) -> int:
        return max(numbers(key) or (0,))

    layers = number("block_count")
    if not 0 < layers <= _MOST_LAYERS:
        return None
    layer_bytes, repacked_bytes = [0] * layers, [0] * layers
    input_bytes = output_bytes = 0
    for tensor in tensors:
        if tensor.size_bytes is None:
            return None
        found = _BLOCK.match(tensor.name)
        if found and int(found[1]) < layers:
            layer_bytes[int(found[1])] += tensor.size_bytes
            repacked_bytes[int(found[1])] += tensor.size_bytes * (tensor.kind in _REPACKED_TYPES)
        elif tensor.name == _INPUT:
            input_bytes += tensor.size_bytes
        else:
            output_bytes += tensor.size_bytes
    latent = number("attention.kv_lora_rank")
    return Layout(
        layer_bytes=tuple(layer_bytes),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        repacked_bytes=tuple(repacked_bytes),
        parts=parts,
        tokens=texts[0] or number("vocab_size"),
        merges=texts[1],
        feed_forward_length=max(
            number("feed_forward_length") if not number("expert_used_count") else 0,
            (number("expert_feed_forward_length") or number("feed_forward_length")) * number("expert_used_count"),
        ),
        windowed=_windowed(architecture, layers, number("attention.sliding_window"), numbers),
        latent_length=latent and latent + number("rope.dimension_count"),
    )


def _windowed(
    architecture: str, layers: int, window: int, numbers: Callable[[str], tuple[int, ...] | None]
) -> tuple[bool, ...]:
    said = numbers("attention.sliding_window_pattern")
    if window and said and len(said) == layers:
        return tuple(bool(each) for each in said)
    period = (said[0] if said else 0) or _WINDOW_PERIODS.get(architecture, 0)
    return tuple(bool(window and period) and layer % period < period - 1 for layer in range(layers))
