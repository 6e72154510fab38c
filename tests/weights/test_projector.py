"""What a multimodal projector says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import WeightsBrokenError
from app.weights.gguf import read_header
from app.weights.projector import Projector
from bench.projectors import PROJECTORS, ProjectorShape, write_projector
from tests.support.gguf import Value, gguf, minimal_gguf

CLIP: dict[str, Value] = {"general.architecture": "clip"}


def read(tmp_path: Path, **keys: Value) -> Projector:
    """``keys`` stand below clip, with dots written as ``__``."""
    file = tmp_path / "eye.gguf"
    file.write_bytes(gguf(CLIP | {f"clip.{key.replace('__', '.')}": value for key, value in keys.items()}))
    found = read_header(file).projector
    assert found is not None
    return found


@pytest.mark.parametrize("shape", PROJECTORS, ids=lambda shape: shape.name)
def test_projector_that_llama_server_takes_is_read(tmp_path: Path, shape: ProjectorShape) -> None:
    write_projector(shape, tmp_path / "eye.gguf")
    facts = read_header(tmp_path / "eye.gguf")

    assert (facts.kind, facts.layout, facts.vocabulary) == ("mmproj", None, None)
    assert facts.projector == Projector(
        "gemma3",
        sees=True,
        hears=False,
        image_size=shape.image,
        patches=(shape.image // shape.patch) ** 2,
        embedding_length=shape.embedding,
        feed_forward_length=shape.feed_forward,
    )


def test_model_is_no_projector(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(minimal_gguf())
    assert read_header(tmp_path / "m.gguf").projector is None


@pytest.mark.parametrize(
    ("keys", "modalities"),
    [
        ({}, ("image",)),
        ({"has_vision_encoder": True}, ("image",)),
        ({"has_audio_encoder": True}, ("audio",)),
        ({"has_audio_encoder": True, "has_vision_encoder": True}, ("image", "audio")),
        ({"has_vision_encoder": "yes"}, ("image",)),
    ],
)
def test_what_it_takes_is_what_it_has_encoders_for(
    tmp_path: Path, keys: dict[str, Value], modalities: tuple[str, ...]
) -> None:
    """Old files say nothing, and are all made for images."""
    assert read(tmp_path, **keys).modalities == modalities


@pytest.mark.parametrize(
    ("keys", "patches"),
    [
        ({"vision__image_size": 448, "vision__patch_size": 14}, 1024),
        ({"vision__image_size": 448, "vision__patch_size": 14, "vision__image_max_pixels": 14**2 * 5000}, 5000),
        ({"projector_type": "qwen2.5vl_merger", "vision__image_size": 560, "vision__patch_size": 14}, 4096 * 4),
        ({"projector_type": "lfm2", "vision__projector__scale_factor": 4, "vision__patch_size": 16}, 256 * 16),
        ({"vision__image_size": 448}, 0),
    ],
)
def test_largest_image_is_what_its_kind_scales_others_down_to(
    tmp_path: Path, keys: dict[str, Value], patches: int
) -> None:
    assert read(tmp_path, **keys).patches == patches


@pytest.mark.parametrize("value", [2**31, True, "many", 1.5])
def test_number_that_no_projector_has_is_refused(tmp_path: Path, value: Value) -> None:
    with pytest.raises(WeightsBrokenError, match=r"for clip\.vision\.image_size, which no projector has"):
        read(tmp_path, vision__image_size=value)
