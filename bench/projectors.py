"""Small multimodal projectors with random weights: llama-server loads them, and makes of an image what nobody can read.

They take the memory that a real projector of their shape takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np


@dataclass(frozen=True, slots=True)
class ProjectorShape:
    """What decides how much memory a projector takes."""

    name: str
    layers: int = 4
    embedding: int = 192
    feed_forward: int = 768
    heads: int = 3
    image: int = 256
    """Pixels of a side."""
    patch: int = 16
    merge: int = 4
    """Patches of a side that become one token."""
    projected: int = 576
    """Width of the model that it is for; that of the embedded one."""


PROJECTORS = (
    ProjectorShape("few patches"),
    ProjectorShape("many patches", layers=6, embedding=384, feed_forward=1536, heads=6, image=768),
    ProjectorShape("wide layers", layers=6, embedding=1152, feed_forward=4304, heads=16, image=448, patch=14),
)


def write_projector(shape: ProjectorShape, path: Path) -> None:
    """Write a file that llama-server takes with ``--mmproj``."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name(shape.name)
    writer.add_clip_has_vision_encoder(value=True)
    writer.add_clip_projector_type("gemma3")
    writer.add_bool("clip.use_gelu", True)
    writer.add_vision_image_size(shape.image)
    writer.add_vision_patch_size(shape.patch)
    writer.add_vision_embedding_length(shape.embedding)
    writer.add_vision_feed_forward_length(shape.feed_forward)
    writer.add_vision_block_count(shape.layers)
    writer.add_vision_head_count(shape.heads)
    writer.add_vision_projection_dim(shape.projected)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_projector_scale_factor(shape.merge)
    random = np.random.default_rng(1)
    for name, size in _tensors(shape).items():
        if name.endswith("bias"):
            values = np.zeros(size, dtype=np.float32)
        elif len(size) == 1:
            values = np.ones(size, dtype=np.float32)
        else:
            values = random.standard_normal(size, dtype=np.float32) * np.float32(0.02)
        is_small = len(size) == 1 or "embd" in name
        writer.add_tensor(name, values if is_small else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(shape: ProjectorShape) -> dict[str, tuple[int, ...]]:
    """Names and numpy shapes, rows first."""
    width, patches = shape.embedding, (shape.image // shape.patch) ** 2
    tensors: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (width, 3, shape.patch, shape.patch),
        "v.patch_embd.bias": (width,),
        "v.position_embd.weight": (patches, width),
        "v.post_ln.weight": (width,),
        "v.post_ln.bias": (width,),
    }
    for layer in range(shape.layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors[f"v.blk.{layer}.{part}.weight"] = (width, width)
            tensors[f"v.blk.{layer}.{part}.bias"] = (width,)
        for part in ("ln1", "ln2"):
            tensors[f"v.blk.{layer}.{part}.weight"] = (width,)
            tensors[f"v.blk.{layer}.{part}.bias"] = (width,)
        tensors[f"v.blk.{layer}.ffn_up.weight"] = (shape.feed_forward, width)
        tensors[f"v.blk.{layer}.ffn_up.bias"] = (shape.feed_forward,)
        tensors[f"v.blk.{layer}.ffn_down.weight"] = (width, shape.feed_forward)
        tensors[f"v.blk.{layer}.ffn_down.bias"] = (width,)
    tensors["mm.input_projection.weight"] = (width, shape.projected)
    tensors["mm.soft_emb_norm.weight"] = (width,)
    return tensors
