"""Which files ``org/repo:QUANTISATION`` means."""

from __future__ import annotations

import tracemalloc

import pytest
from pydantic import ValidationError

from app.manifest.schema import ModelSection
from app.weights.quants import Source, choose, no_such_model, parts_of, whole_models

NAMES = (
    *("README.md", "m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-UD-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf"),
    *("m-IQ4_XS.gguf", "imatrix.gguf", "bf16/m-BF16-00001-of-00002.gguf", "bf16/m-BF16-00002-of-00002.gguf"),
    "half/m-Q6_K-00001-of-00002.gguf",
)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("Q4_K_M", "m-Q4_K_M.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("UD-Q4_K_M", "m-UD-Q4_K_M.gguf"),
        ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (None, "m-Q4_K_M.gguf"),
        ("Q8_0", "m-Q8_0.gguf"),
        ("BF16", "bf16/m-BF16-00001-of-00002.gguf"),
        ("Q4_K", None),
        ("F16", None),
        ("Q6_K", None),
    ],
)
def test_quantisation_chooses_one_whole_model(asked: str | None, chosen: str | None) -> None:
    """Part of a name is no quantisation, a projector is no model, half a model is none."""
    files = choose(NAMES, asked)
    assert (files[0] if files else None) == chosen


def test_without_a_quantisation_the_first_is_taken_where_none_is_preferred() -> None:
    assert choose(["m-Q5_0.gguf", "m-Q3_K_S.gguf"], None) == ("m-Q5_0.gguf",)
    assert choose([], None) is None


def test_parts_are_listed_in_order() -> None:
    assert parts_of("a/m-00001-of-00003.gguf") == tuple(f"a/m-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    assert parts_of("m.gguf") == ("m.gguf",)
    assert len(whole_models(NAMES)) == 6


def test_name_that_counts_no_parts_is_a_name_like_any_other() -> None:
    """It may lie in a cache that other programs fill: nothing that reads names may break at it."""
    name = "m-Q4_K_M-00001-of-00000.gguf"
    assert choose([name], "Q4_K_M") == choose([name], None) == (name,)


@pytest.mark.parametrize("hf_repo", ["../..", "./..", "org/..", "../repo", ".org/repo", "org/.repo:Q4_0"])
def test_repository_is_no_way_out_of_models(hf_repo: str) -> None:
    with pytest.raises(ValidationError):
        ModelSection(hf_repo=hf_repo)


def test_refusal_lists_what_there_is() -> None:
    message = no_such_model(Source.of("org/repo:Q2_K"), NAMES).message
    assert "BF16, IQ4_XS, Q4_K_M, Q8_0, UD-Q4_K_M, UD-Q4_K_XL" in message
    assert "no whole GGUF model" in no_such_model(Source.of("org/repo"), ["a.safetensors"]).message


def test_parts_that_are_not_there_are_not_all_named() -> None:
    """A list of a hub has room for 70,000 such names: minutes in which a thread would do nothing but write them."""
    tracemalloc.start()
    try:
        assert whole_models([f"m{number}-00001-of-99999.gguf" for number in range(3)]) == []
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
