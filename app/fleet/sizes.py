"""The arithmetic of one language model: its tensors, its keys and values, and the buffers that follow from them. Pure.

The formulas were found by measuring llama-server b11434 over shapes of models (``make bench-fit``), on the processor.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.engines.base import Fit, RunSpec
from app.engines.command import batch_tokens, reads_whole
from app.manifest.schema import CacheType
from app.weights.gguf import GgufFacts
from app.weights.layout import Layout

_KV_BYTES: Mapping[CacheType, float] = {
    "f32": 4,
    "f16": 2,
    "bf16": 2,
    "q8_0": 34 / 32,
    "q4_0": 18 / 32,
    "q4_1": 20 / 32,
    "iq4_nl": 18 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
}
"""Bytes for one value of the KV cache."""
_CELLS = 256
"""Contexts are rounded up to a multiple of this."""
_CHECKPOINT_TOKENS, _SPARE_CHECKPOINTS = 8192, 2
"""llama-server saves what the windows of a slot hold after so many tokens, and beside the newest prompt."""
_ACTIVATIONS, _FEED_FORWARDS = 5, 3
"""Vectors of a token that are alive at once, at the widest place of a layer."""


class Weights:
    """A model's tensors; those of one in several files are taken to be alike in all layers."""

    def __init__(self, layout: Layout, weights_bytes: int) -> None:
        """``weights_bytes`` are those of all files together."""
        self._layout, layers = layout, len(layout.layer_bytes)
        self.input_bytes, self.output_bytes = layout.input_bytes, layout.output_bytes
        # Never less than nothing: in a file that means harm, tensors lie over each other.
        rest = max(0, weights_bytes - self.input_bytes - self.output_bytes)
        self._each = rest // layers if layout.parts > 1 else None

    def of(self, layers: range) -> int:
        """Bytes of these layers."""
        if self._each is not None:
            return self._each * len(layers)
        return sum(self._layout.layer_bytes[layer] for layer in layers)


class Cache:
    """Keys and values of one start, and the buffers whose size follows from them."""

    def __init__(self, facts: GgufFacts, layout: Layout, run: RunSpec, fit: Fit) -> None:
        """The model need not be the run's own: a draft model has a context of the same size and type."""
        self._facts, self._layout, self._fit = facts, layout, fit
        self._value_bytes = _KV_BYTES[run.cache_type or "f16"]
        self._batch = min(batch_tokens(run.kinds, fit.context_length), fit.context_length)
        self._cells = _rounded(fit.context_length)
        window = facts.sliding_window or 0
        self._window_cells = min(self._cells, _rounded(window + self._batch))
        self._has_outputs = reads_whole(run.kinds)

    def bytes_of(self, layers: range) -> int:
        """The cache of these layers, for all slots."""
        if self._facts.only_reads:
            return 0
        cells = (self._window_cells if self._layout.windowed[layer] else self._cells for layer in layers)
        sizes = (self._token_bytes(layer) * count for layer, count in zip(layers, cells, strict=True))
        return int(sum(sizes) * self._fit.slots)

    @property
    def checkpoint_bytes(self) -> int:
        """What is saved of windows in use, for all slots."""
        window = min(self._cells, self._facts.sliding_window or 0)
        windowed = [layer for layer, is_windowed in enumerate(self._layout.windowed) if is_windowed]
        each = sum(self._token_bytes(layer) for layer in windowed) * window
        return int(each * (self._fit.context_length // _CHECKPOINT_TOKENS + _SPARE_CHECKPOINTS) * self._fit.slots)

    @property
    def compute_bytes(self) -> int:
        """Buffers for one batch: a mask over the context, and vectors for each token."""
        masks = self._cells + (self._window_cells if any(self._layout.windowed) else 0)
        vectors = _ACTIVATIONS * (self._facts.embedding_length or 0) + self._widest
        return self._batch * (2 * masks + 4 * vectors)

    @property
    def output_bytes(self) -> int:
        """For texts read whole, the whole vocabulary for each token: in the buffers, and as result.

        A model that foretells no token fills neither, and llama-server makes room for the result all the same.
        """
        if not self._has_outputs:
            return 0
        tokens = self._layout.tokens
        return self._batch * 4 * (tokens if self._facts.only_reads else max(0, 2 * tokens - self._widest))

    @property
    def _widest(self) -> int:
        return _FEED_FORWARDS * self._layout.feed_forward_length

    def _token_bytes(self, layer: int) -> float:
        """Of one token in one layer."""
        facts = self._facts
        if self._layout.latent_length:
            return self._layout.latent_length * self._value_bytes
        heads = _of_layer(facts.head_count, layer) or 1
        size = (facts.embedding_length or 0) // heads
        length = (facts.key_length or size) + (facts.value_length or size)
        shared = _of_layer(facts.head_count_kv, layer)
        return (heads if shared is None else shared) * length * self._value_bytes


def _of_layer(numbers: tuple[int, ...] | None, layer: int) -> int | None:
    if not numbers:
        return None
    return numbers[layer] if layer < len(numbers) else numbers[0]


def _rounded(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS
