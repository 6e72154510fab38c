"""What a header says of memory: whose tensors are whose, which layers look back only so far, what is laid out anew."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from app.weights.layout import Layout, TensorInfo, layout_of

Q4_0, Q8_0 = 2, 8


def layout(*tensors: TensorInfo, architecture: str = "llama", **numbers: int | tuple[int, ...]) -> Layout | None:
    said: Mapping[str, int | tuple[int, ...]] = {"block_count": 4} | {
        key.replace("__", "."): value for key, value in numbers.items()
    }

    def found(key: str) -> tuple[int, ...] | None:
        value = said.get(key)
        return (value,) if isinstance(value, int) else value

    return layout_of(architecture, tensors, found, parts=1, texts=(0, 0))


def known(*tensors: TensorInfo, architecture: str = "llama", **numbers: int | tuple[int, ...]) -> Layout:
    made = layout(*tensors, architecture=architecture, **numbers)
    assert made is not None
    return made


def test_tensors_count_where_they_lie() -> None:
    made = known(
        TensorInfo("blk.0.attn_q.weight", Q8_0, 10),
        TensorInfo("blk.0.ffn_up.weight", Q8_0, 5),
        TensorInfo("blk.3.ffn_up.weight", Q8_0, 7),
        TensorInfo("token_embd.weight", Q8_0, 100),
        TensorInfo("output.weight", Q8_0, 90),
        TensorInfo("rope_freqs.weight", Q8_0, 1),
    )
    assert (made.layer_bytes, made.input_bytes, made.output_bytes) == ((15, 0, 0, 7), 100, 91)


def test_layer_that_the_model_does_not_have_is_no_layer() -> None:
    """A hostile name must not make room for a million layers."""
    made = known(TensorInfo("blk.9999.x", Q8_0, 3), TensorInfo("blk.99999999.x", Q8_0, 4))
    assert (made.layer_bytes, made.output_bytes) == ((0, 0, 0, 0), 7)


def test_only_types_that_the_processor_lays_out_anew_count_twice() -> None:
    """llama.cpp keeps a copy of them beside the mapped file: 69.75 MiB more for one of 70 MiB, measured."""
    made = known(
        TensorInfo("blk.1.a", Q4_0, 20), TensorInfo("blk.1.b", Q8_0, 3), TensorInfo("token_embd.weight", Q4_0, 9)
    )
    assert made.repacked_bytes == (0, 20, 0, 0)


@pytest.mark.parametrize("layers", [0, 513, 100_000])
def test_number_of_layers_that_no_model_has_leaves_it_unknown(layers: int) -> None:
    assert layout(block_count=layers) is None


def test_tensor_of_a_type_that_is_newer_than_airlab_leaves_it_unknown() -> None:
    assert layout(TensorInfo("blk.0.a", 99, None)) is None


def test_windows_follow_the_header_where_it_lists_them() -> None:
    made = known(attention__sliding_window=512, attention__sliding_window_pattern=(1, 1, 0, 1))
    assert made.windowed == (True, True, False, True)


@pytest.mark.parametrize(
    ("architecture", "windowed"),
    [
        ("gemma2", [True, False] * 6),
        ("gemma3", ([True] * 5 + [False]) * 2),
        ("cohere2", ([True] * 3 + [False]) * 3),
        ("llama", [False] * 12),
    ],
)
def test_windows_follow_the_architecture_where_it_does_not(architecture: str, windowed: list[bool]) -> None:
    made = known(architecture=architecture, block_count=12, attention__sliding_window=512)
    assert list(made.windowed) == windowed


def test_model_without_a_window_keeps_whole_contexts() -> None:
    assert known(architecture="gemma3", block_count=12).windowed == (False,) * 12


def test_experts_that_are_used_at_once_count_together() -> None:
    assert known(feed_forward_length=1024, expert_used_count=2).feed_forward_length == 2048
    assert (
        known(feed_forward_length=6144, expert_used_count=8, expert_feed_forward_length=768).feed_forward_length == 6144
    )


def test_widest_layer_counts_where_they_differ() -> None:
    assert known(feed_forward_length=(512, 2048, 1024, 512)).feed_forward_length == 2048


def test_latent_attention_keeps_one_vector_in_place_of_keys_and_values() -> None:
    assert known(attention__kv_lora_rank=512, rope__dimension_count=64).latent_length == 576
    assert known(rope__dimension_count=64).latent_length == 0
