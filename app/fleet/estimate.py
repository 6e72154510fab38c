"""What memory a model takes, item by item, before it is started. Pure.

"Memory" is what a llama-server process keeps resident once it has worked through one full batch: its own pages, and
the pages of its model file, which it maps. The kernel could drop those under pressure, and they would be read again for
each token: so they count. Items that only grow in use, up to a bound, are marked: a start needs room for them, and a
measurement need not show them.

The formulas were found by measuring llama-server b11434 over shapes of models (``make bench-fit``), on the processor.
Nobody measured a CUDA context: its size is the larger of what is told of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from app.engines.base import Fit, RunSpec
from app.engines.command import batch_tokens
from app.manifest.schema import CacheType
from app.units import MIB, format_bytes
from app.weights.gguf import GgufFacts
from app.weights.layout import Layout

RAM = "RAM"
"""The host's memory, where it is one."""
SOME_GPU = "GPU"
"""A GPU of which nobody could say how much memory it has."""

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
_PROCESS_BYTES, _TOKEN_BYTES, _MERGE_BYTES = 19 * MIB, 160, 200
"""Program and libraries; then the vocabulary's tables."""
_CUDA_CONTEXT_BYTES, _CUDA_HOST_BYTES = 600 * MIB, 250 * MIB
_CHECKPOINT_TOKENS, _SPARE_CHECKPOINTS = 8192, 2
"""llama-server saves what the windows of a slot hold after so many tokens, and beside the newest prompt."""
_UNREAD_SHARE = 1.1
_CORRECTION = "more, by its last run"
_ACTIVATIONS, _FEED_FORWARDS = 5, 3
"""Vectors of a token that are alive at once, at the widest place of a layer."""


@dataclass(frozen=True, slots=True)
class Item:
    """One part of the memory that a model takes on one device."""

    what: str
    device: str
    size_bytes: int
    grows: bool = False
    """Whether it is taken little by little, in use."""
    mapped: bool = False
    """Whether it is a mapped file, which the kernel still counts as memory that it could give to others."""


@dataclass(frozen=True)
class Estimate:
    """All that a model takes, as one start of it would have it."""

    items: tuple[Item, ...]
    knows_shape: bool = True
    """False where no header was read, so that only the size of the file counts."""

    @cached_property
    def takes(self) -> Mapping[str, int]:
        """Bytes on each device, once everything has grown."""
        return _by_device(self.items)

    @cached_property
    def not_mapped(self) -> Mapping[str, int]:
        """Bytes on each device without mapped files, and without what has yet to grow."""
        return _by_device(item for item in self.items if not item.mapped and not item.grows)

    def at_start_bytes(self, device: str = RAM) -> int:
        """What a measurement after the first request should show."""
        return sum(item.size_bytes for item in self.items if item.device == device and not item.grows)

    @property
    def uncorrected_bytes(self) -> int:
        """What a measurement on the host should show, by the formulas alone."""
        hosts = (item for item in self.items if not item.device.startswith(SOME_GPU) and not item.grows)
        return sum(item.size_bytes for item in hosts if item.what != _CORRECTION)

    def words(self, device: str) -> str:
        """The arithmetic of one device: ``weights 92.1 MiB + KV cache 180.0 MiB + ... = 310.4 MiB``."""
        items = [item for item in self.items if item.device == device]
        parts = [f"{item.what} {'up to ' if item.grows else ''}{format_bytes(item.size_bytes)}" for item in items]
        return f"{' + '.join(parts)} = {format_bytes(self.takes.get(device, 0))}"


def _by_device(items: Iterable[Item]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for item in items:
        sums[item.device] = sums.get(item.device, 0) + item.size_bytes
    return sums


@dataclass(frozen=True, slots=True)
class Demand:
    """A model that asks for memory."""

    key: str
    run: RunSpec
    facts: GgufFacts | None
    weights_bytes: int
    """All files of it."""
    ratio: float = 1.0
    """What its last run took on the host, against what had been estimated for it."""
    base_bytes: int = 0
    """What its engine adds to what llama-server itself takes."""


def estimate(demand: Demand, fit: Fit, hosts: tuple[str, ...] = (RAM,)) -> Estimate:
    """What it takes when it is started so.

    Args:
        demand: The model.
        fit: The numbers that it is started with; its layers lie on ``fit.gpus``.
        hosts: The host's memory: one device, or NUMA nodes that share alike.
    """
    layout = demand.facts.layout if demand.facts else None
    if demand.facts is None or layout is None:
        device = _gpus(fit)[0] if fit.gpu_layers else hosts[0]
        size_bytes = int(demand.weights_bytes * _UNREAD_SHARE)
        return Estimate((Item("weights, their header unread", device, size_bytes, mapped=device in hosts),), False)
    shares = list(_items(demand, demand.facts, layout, fit))
    if demand.ratio > 1:
        before = sum(item.size_bytes for item in shares if item.device == RAM and not item.grows)
        shares.append(Item(_CORRECTION, RAM, int(before * (demand.ratio - 1))))
    items = tuple(_shared(item, hosts if item.device == RAM else (item.device,), fit) for item in shares)
    return Estimate(tuple(piece for pieces in items for piece in pieces))


def layers_on_gpu(layers: int, gpu_layers: int | None) -> int:
    """Of so many layers, those whose tensors lie on a GPU: llama-server counts the output as the first one."""
    if gpu_layers is None or gpu_layers < 0:
        return layers
    return min(layers, max(0, gpu_layers - 1))


def _gpus(fit: Fit) -> tuple[str, ...]:
    return tuple(f"GPU {number}" for number in fit.gpus) or (SOME_GPU,)


def _items(demand: Demand, facts: GgufFacts, layout: Layout, fit: Fit) -> Iterator[Item]:
    run, layers = demand.run, len(layout.layer_bytes)
    offloaded = layers_on_gpu(layers, fit.gpu_layers)
    first = layers - offloaded
    gpu, on_host, on_gpu = SOME_GPU, range(first), range(first, layers)
    weights = _Weights(layout, demand.weights_bytes)
    kept = weights.input_bytes + (weights.output_bytes if fit.gpu_layers == 0 else 0)
    yield Item("weights", RAM, kept + weights.of(on_host), mapped=True)
    if repacked := sum(layout.repacked_bytes[layer] for layer in on_host):
        yield Item("weights laid out anew", RAM, repacked)
    kv = _Cache(facts, layout, run, fit)
    if cached := kv.bytes_of(on_host):
        yield Item(f"KV cache of {fit.slots} x {fit.context_length} tokens", RAM, cached)
    if fit.gpu_layers != 0:
        # A model without an output of its own has its input there a second time.
        yield Item("weights", gpu, weights.of(on_gpu) + max(weights.output_bytes, weights.input_bytes))
        yield Item(f"KV cache of {fit.slots} x {fit.context_length} tokens", gpu, kv.bytes_of(on_gpu))
        yield Item("compute buffers", gpu, kv.compute_bytes)
        yield Item("CUDA context", gpu, _CUDA_CONTEXT_BYTES)
    if on_host:
        yield Item("compute buffers", RAM, kv.compute_bytes)
    if run.adapters:
        yield Item("adapters", gpu if fit.gpu_layers else RAM, sum(adapter.size_bytes for adapter in run.adapters))
    process = _PROCESS_BYTES + layout.tokens * _TOKEN_BYTES + layout.merges * _MERGE_BYTES + demand.base_bytes
    process += fit.slots * (layout.tokens + (facts.embedding_length or 0)) * 4
    yield Item("process", RAM, process + (_CUDA_HOST_BYTES if fit.gpu_layers != 0 else 0))
    if kv.output_bytes:
        yield Item("outputs of texts to embed", RAM, kv.output_bytes, grows=True)
    if kv.checkpoint_bytes:
        yield Item("saved windows", RAM, kv.checkpoint_bytes, grows=True)
    yield Item("old prompts", RAM, fit.cache_ram_mib * MIB, grows=True)


def _shared(item: Item, devices: tuple[str, ...], fit: Fit) -> Iterator[Item]:
    """The item, shared among several devices where it lies on several."""
    if item.device == SOME_GPU:
        devices = _gpus(fit)
    weights = fit.gpu_shares if item.device == SOME_GPU and fit.gpu_shares else (1,) * len(devices)
    # Each GPU has a context and buffers of its own.
    whole = item.what in {"CUDA context", "compute buffers"} and item.device == SOME_GPU
    for device, weight in zip(devices, weights, strict=True):
        size_bytes = item.size_bytes if whole else item.size_bytes * weight // max(1, sum(weights))
        yield Item(item.what, device, size_bytes, item.grows, item.mapped)


class _Weights:
    """A model's tensors; those of one in several files are taken to be alike in all layers."""

    def __init__(self, layout: Layout, weights_bytes: int) -> None:
        self._layout, layers = layout, len(layout.layer_bytes)
        self.input_bytes, self.output_bytes = layout.input_bytes, layout.output_bytes
        # Never less than nothing: in a file that means harm, tensors lie over each other.
        rest = max(0, weights_bytes - self.input_bytes - self.output_bytes)
        self._each = rest // layers if layout.parts > 1 else None

    def of(self, layers: range) -> int:
        if self._each is not None:
            return self._each * len(layers)
        return sum(self._layout.layer_bytes[layer] for layer in layers)


class _Cache:
    """Keys and values of one start, and the buffers whose size follows from them."""

    def __init__(self, facts: GgufFacts, layout: Layout, run: RunSpec, fit: Fit) -> None:
        self._facts, self._layout, self._fit = facts, layout, fit
        self._value_bytes = _KV_BYTES[run.cache_type or "f16"]
        self._batch = min(batch_tokens(run.kinds, fit.context_length), fit.context_length)
        self._cells = _rounded(fit.context_length)
        window = facts.sliding_window or 0
        self._window_cells = min(self._cells, _rounded(window + self._batch))
        self._has_outputs = "embedding" in run.kinds

    def bytes_of(self, layers: range) -> int:
        """The cache of these layers, for all slots."""
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
        """For a model that embeds, the whole vocabulary for each token of a text: in the buffers, and as result."""
        return self._batch * 4 * max(0, 2 * self._layout.tokens - self._widest) if self._has_outputs else 0

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
