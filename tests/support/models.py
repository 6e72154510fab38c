"""What the headers of models say that people run, and of some that nobody does; sizes as their makers publish them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.engines.base import WeightsId
from app.fleet.estimate import Demand
from app.units import GIB, MIB
from app.weights.gguf import GgufFacts
from app.weights.layout import Layout
from app.weights.projector import Projector
from tests.fakes import run_spec
from tests.support.gguf import ALIGNMENT, F32, Tensor, gguf


def facts_of(
    *,
    layers: int,
    embedding: int,
    feed_forward: int,
    heads: int,
    kv_heads: int,
    tokens: int,
    context: int,
    weights_bytes: int,
    **more: Any,
) -> GgufFacts:
    """A header; its input and output take a tenth of the weights each, and its layers share the rest."""
    tenth = weights_bytes // 10
    layout = Layout(
        layer_bytes=((weights_bytes - 2 * tenth) // layers,) * layers,
        input_bytes=tenth,
        output_bytes=tenth,
        repacked_bytes=(0,) * layers,
        parts=1,
        tokens=tokens,
        merges=0,
        feed_forward_length=feed_forward,
        windowed=more.pop("windowed", (False,) * layers),
        latent_length=more.pop("latent_length", 0),
    )
    given: dict[str, Any] = {
        "architecture": "llama",
        "name": None,
        "kind": "model",
        "parameters": None,
        "quantisation": None,
        "has_chat_template": True,
        "knows_tools": False,
        "adapter_type": None,
        "base_names": (),
        "key_length": None,
        "value_length": None,
        "sliding_window": None,
        "tensor_bytes": weights_bytes,
    }
    return GgufFacts(
        context_length=context,
        block_count=layers,
        embedding_length=embedding,
        head_count=(heads,),
        head_count_kv=(kv_heads,),
        layout=layout,
        **given | more,
    )


def facts_of_projector(*, vision: bool = False, audio: bool = False, **more: Any) -> GgufFacts:
    """The header of a multimodal projector; ``more`` is what it says of its encoder."""
    projector = Projector("gemma3", vision, audio, **more)
    return replace(SMALL, architecture="clip", kind="mmproj", layout=None, projector=projector)


SMALL = facts_of(
    layers=30,
    embedding=576,
    feed_forward=1536,
    heads=9,
    kv_heads=3,
    tokens=49_152,
    context=8192,
    weights_bytes=92 * MIB,
)
SEVEN = facts_of(
    layers=28,
    embedding=3584,
    feed_forward=18_944,
    heads=28,
    kv_heads=4,
    tokens=152_064,
    context=32_768,
    weights_bytes=int(4.36 * GIB),
)
"""As Qwen2.5 7B in Q4_K_M."""
THREE = facts_of(
    layers=36,
    embedding=2048,
    feed_forward=11_008,
    heads=16,
    kv_heads=2,
    tokens=151_936,
    context=32_768,
    weights_bytes=int(1.8 * GIB),
)
"""As Qwen2.5 3B in Q4_K_M."""
FOURTEEN = facts_of(
    layers=48,
    embedding=5120,
    feed_forward=13_824,
    heads=40,
    kv_heads=8,
    tokens=152_064,
    context=32_768,
    weights_bytes=int(8.37 * GIB),
)
"""As Qwen2.5 14B in Q4_K_M."""
THIRTY_TWO = facts_of(
    layers=64,
    embedding=5120,
    feed_forward=27_648,
    heads=40,
    kv_heads=8,
    tokens=152_064,
    context=32_768,
    weights_bytes=int(18.5 * GIB),
)
"""As Qwen2.5 32B in Q4_K_M."""
SEVENTY = facts_of(
    layers=80,
    embedding=8192,
    feed_forward=28_672,
    heads=64,
    kv_heads=8,
    tokens=128_256,
    context=131_072,
    weights_bytes=int(39.6 * GIB),
)
"""As Llama 3.3 70B in Q4_K_M."""


def lay_model(file: Path, facts: GgufFacts) -> None:
    """Lay a file whose header says this. It is as long as such a model and takes no place: its tensors are holes."""
    layout = facts.layout
    assert layout is not None
    sizes = {f"blk.{number}.weight": size for number, size in enumerate(layout.layer_bytes)}
    sizes |= {"token_embd.weight": layout.input_bytes, "output.weight": layout.output_bytes}
    tensors, offset = [], 0
    for name, size_bytes in sizes.items():
        tensors.append(Tensor(name, (size_bytes // 4,), F32, offset))
        offset += -(-size_bytes // ALIGNMENT) * ALIGNMENT
    said: dict[str, Any] = {
        "general.type": "model",
        "general.architecture": "llama",
        "llama.block_count": facts.block_count,
        "llama.context_length": facts.context_length,
        "llama.embedding_length": facts.embedding_length,
        "llama.feed_forward_length": layout.feed_forward_length,
        "llama.attention.head_count": (facts.head_count or (0,))[0],
        "llama.attention.head_count_kv": (facts.head_count_kv or (0,))[0],
        "llama.vocab_size": layout.tokens,
    }
    header = gguf(said, tensors, data=b"")
    file.write_bytes(header)
    os.truncate(file, len(header) + offset)


def demand(facts: GgufFacts | None, key: str = "m", *, weights_bytes: int | None = None, **run: Any) -> Demand:
    """A model that asks for memory; ``run`` says how it is to be run."""
    size_bytes = weights_bytes if weights_bytes is not None else (facts.tensor_bytes if facts else 0) or 0
    spec = run_spec(**{"weights": WeightsId(Path(f"/models/{key}.gguf"), size_bytes, 1), "threads": 7, **run})
    return Demand(key, spec, facts, size_bytes)
