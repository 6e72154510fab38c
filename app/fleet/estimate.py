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
from dataclasses import dataclass, replace
from functools import cached_property

from app.engines.base import Fit, RunSpec
from app.fleet.sizes import Cache, Weights
from app.units import MIB, format_bytes
from app.weights.gguf import GgufFacts
from app.weights.layout import Layout
from app.weights.projector import Projector

RAM = "RAM"
"""The host's memory, where it is one."""
SOME_GPU = "GPU"
"""A GPU of which nobody could say how much memory it has."""

OUTPUTS = "outputs of texts read whole"
"""What grows with the longest text that is embedded, or ranked."""

_PROCESS_BYTES, _TOKEN_BYTES, _MERGE_BYTES = 19 * MIB, 160, 200
"""Program and libraries; then the vocabulary's tables."""
_CUDA_CONTEXT_BYTES, _CUDA_HOST_BYTES = 600 * MIB, 250 * MIB
_UNREAD_SHARE = 1.1
_COMPUTE, _CORRECTION = "compute buffers", "more, by its last run"
_PROJECTOR_BYTES, _IMAGES_AT_START, _IMAGES_IN_WORK, _IMAGE_ACTIVATIONS = 3 * MIB, 2, 3, 4
"""Library and buffers; copies of one image as numbers, for its first try and at work; vectors alive for each patch."""
_READ_PIXEL_BYTES, _READ_HEAP_BYTES = 16, 110 * MIB
"""A picture as it is unpacked, at most a progressive JPEG of four colours (15.3 measured); then what the heap keeps of
the bodies that it came in, by 17 threads or more."""
MAX_IMAGE_PIXELS = 2**24
"""Pixels of all images of a request, together: what the API lets through."""
MAX_MEDIA, _IMAGE_COPIES = 16, 2
"""Images and sounds of a request, at most; llama-server has all of them as numbers before it counts their tokens, so
often (measured), and a picture of one pixel becomes as many numbers as any."""


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
class Draft:
    """A draft model: another model beside the first."""

    facts: GgufFacts | None
    weights_bytes: int
    """All files of it."""


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
    projector: Projector | None = None
    """What the header of its multimodal projector says, where it has one and that was read."""
    draft: Draft | None = None
    """Its draft model, where it has one."""


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
        beside = demand.draft.weights_bytes if demand.draft else 0
        beside += demand.run.mmproj.size_bytes if demand.run.mmproj else 0
        size_bytes = int((demand.weights_bytes + beside) * _UNREAD_SHARE)
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
    run, cache = demand.run, Cache(facts, layout, demand.run, fit)
    yield from _language_model(demand.run, facts, layout, demand.weights_bytes, fit)
    if fit.gpu_layers != 0:
        yield Item("CUDA context", SOME_GPU, _CUDA_CONTEXT_BYTES)
    if run.adapters:
        size_bytes = sum(adapter.size_bytes for adapter in run.adapters)
        yield Item("adapters", SOME_GPU if fit.gpu_layers else RAM, size_bytes)
    process = _PROCESS_BYTES + demand.base_bytes + _vocabulary_bytes(facts, layout, fit)
    yield Item("process", RAM, process + (_CUDA_HOST_BYTES if fit.gpu_layers != 0 else 0))
    if demand.draft is not None:
        yield from _draft(run, demand.draft, fit)
    if run.mmproj is not None:
        yield from _projector(demand.projector, run.mmproj.size_bytes, fit)
    if cache.output_bytes:
        yield Item(OUTPUTS, RAM, cache.output_bytes, grows=True)
    if cache.checkpoint_bytes:
        yield Item("saved windows", RAM, cache.checkpoint_bytes, grows=True)
    yield Item("old prompts", RAM, fit.cache_ram_mib * MIB, grows=True)


def _language_model(run: RunSpec, facts: GgufFacts, layout: Layout, weights_bytes: int, fit: Fit) -> Iterator[Item]:
    """Weights, cache and buffers of one model."""
    layers = len(layout.layer_bytes)
    first = layers - layers_on_gpu(layers, fit.gpu_layers)
    on_host, on_gpu = range(first), range(first, layers)
    weights, cache = Weights(layout, weights_bytes), Cache(facts, layout, run, fit)
    kept = weights.input_bytes + (weights.output_bytes if fit.gpu_layers == 0 else 0)
    yield Item("weights", RAM, kept + weights.of(on_host), mapped=True)
    if repacked := sum(layout.repacked_bytes[layer] for layer in on_host):
        yield Item("weights laid out anew", RAM, repacked)
    if cached := cache.bytes_of(on_host):
        yield Item(f"KV cache of {fit.slots} x {fit.context_length} tokens", RAM, cached)
    if fit.gpu_layers != 0:
        # A model without an output of its own has its input there a second time.
        yield Item("weights", SOME_GPU, weights.of(on_gpu) + max(weights.output_bytes, weights.input_bytes))
        yield Item(f"KV cache of {fit.slots} x {fit.context_length} tokens", SOME_GPU, cache.bytes_of(on_gpu))
        yield Item(_COMPUTE, SOME_GPU, cache.compute_bytes)
    if on_host:
        yield Item(_COMPUTE, RAM, cache.compute_bytes)


def _vocabulary_bytes(facts: GgufFacts, layout: Layout, fit: Fit) -> int:
    """Tables of tokens, and what one step puts out for each slot."""
    tables = layout.tokens * _TOKEN_BYTES + layout.merges * _MERGE_BYTES
    return tables + fit.slots * (layout.tokens + (facts.embedding_length or 0)) * 4


def _draft(run: RunSpec, draft: Draft, fit: Fit) -> Iterator[Item]:
    """A whole model more, with a context of the same size; on the GPU or not at all."""
    fit = replace(fit, gpu_layers=0 if fit.gpu_layers == 0 else -1)
    layout = draft.facts.layout if draft.facts else None
    if draft.facts is None or layout is None:
        device = SOME_GPU if fit.gpu_layers else RAM
        yield Item("draft model, its header unread", device, int(draft.weights_bytes * _UNREAD_SHARE))
        return
    for item in _language_model(run, draft.facts, layout, draft.weights_bytes, fit):
        yield replace(item, what=f"draft model's {item.what}")
    yield Item("draft model's vocabulary", RAM, _vocabulary_bytes(draft.facts, layout, fit))
    if windows := Cache(draft.facts, layout, run, fit).checkpoint_bytes:
        yield Item("draft model's saved windows", RAM, windows, grows=True)


def _projector(projector: Projector | None, size_bytes: int, fit: Fit) -> Iterator[Item]:
    """A multimodal projector, which is read and not mapped, and what images take on their way through it."""
    # llama.cpp puts it on the first GPU, and shares it with none.
    device = _gpus(fit)[0] if fit.gpu_layers != 0 else RAM
    image_bytes = 3 * 4 * projector.image_size**2 if projector else 0
    yield Item("projector", device, size_bytes)
    yield Item("projector's process", RAM, _PROJECTOR_BYTES + _IMAGES_AT_START * image_bytes)
    if projector is not None and projector.patches:
        vectors = projector.feed_forward_length + _IMAGE_ACTIVATIONS * projector.embedding_length
        buffers = 4 * projector.patches * vectors + _IMAGES_IN_WORK * image_bytes
        yield Item("buffers for an image", device, buffers, grows=device == RAM)
    reading = fit.slots * MAX_IMAGE_PIXELS * _READ_PIXEL_BYTES + _READ_HEAP_BYTES
    yield Item("images being read", RAM, reading, grows=True)
    if image_bytes:
        yield Item("images as numbers", RAM, fit.slots * MAX_MEDIA * _IMAGE_COPIES * image_bytes, grows=True)


def _shared(item: Item, devices: tuple[str, ...], fit: Fit) -> Iterator[Item]:
    """The item, shared among several devices where it lies on several."""
    if item.device == SOME_GPU:
        devices = _gpus(fit)
    weights = fit.gpu_shares if item.device == SOME_GPU and fit.gpu_shares else (1,) * len(devices)
    # Each GPU has a context and buffers of its own.
    whole = item.device == SOME_GPU and (item.what == "CUDA context" or item.what.endswith(_COMPUTE))
    for device, weight in zip(devices, weights, strict=True):
        size_bytes = item.size_bytes if whole else item.size_bytes * weight // max(1, sum(weights))
        yield Item(item.what, device, size_bytes, item.grows, item.mapped)
