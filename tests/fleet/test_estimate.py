"""Estimates against what llama-server was measured to take, and what follows from where layers lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.engines.base import Fit, WeightsId
from app.fleet.estimate import (
    MAX_IMAGE_PIXELS,
    MAX_MEDIA,
    OUTPUTS,
    RAM,
    Demand,
    Draft,
    Estimate,
    estimate,
    layers_on_gpu,
)
from app.units import GIB, MIB
from app.weights.gguf import GgufFacts, read_header
from bench.fit import case, predict, ranking
from bench.projectors import PROJECTORS, ProjectorShape, write_projector
from bench.rerankers import RERANKERS, RerankerShape, write_reranker
from bench.shapes import SHAPES, Shape, write_shape
from tests.support.models import SEVEN, demand, facts_of
from tests.support.service import MODEL_FILE

CPU = Fit(4096, 1, 0, 7)
MEASURED = [
    # Of the embedded model, resident after a prompt of a full batch: context, slots, cache type, MiB.
    (512, 1, "f16", 153.8),
    (512, 4, "q8_0", 167.7),
    (2048, 2, "f16", 233.9),
    (8192, 1, "q8_0", 239.7),
    (8192, 4, "f16", 866.0),
    (16384, 2, "q8_0", 528.3),
    (16384, 4, "f16", 1587.8),
]


@pytest.fixture(scope="module")
def embedded() -> Demand:
    return demand(read_header(MODEL_FILE), weights_bytes=MODEL_FILE.stat().st_size)


@pytest.mark.parametrize(("context", "slots", "cache_type", "mib"), MEASURED)
def test_embedded_model_takes_what_was_measured(
    embedded: Demand, context: int, slots: int, cache_type: str, mib: float
) -> None:
    asked = replace(embedded, run=replace(embedded.run, cache_type=cache_type))  # type: ignore[arg-type]
    predicted = estimate(asked, Fit(context, slots, 0, 1)).at_start_bytes()
    assert predicted / MIB == pytest.approx(mib, rel=0.1)


def test_file_whose_tensors_lie_over_each_other_takes_no_less_than_nothing() -> None:
    """Else what it says of its other parts would make the sum as small as it likes."""
    assert SEVEN.layout is not None
    lying = replace(SEVEN, layout=replace(SEVEN.layout, parts=2))
    items = estimate(demand(lying, weights_bytes=1), Fit(4096, 1, -1, 7, gpus=(0,))).items
    assert min(item.size_bytes for item in items) >= 0


OTHER_SHAPES = {
    "grouped": 79.7,
    "not-grouped": 116.1,
    "many-tokens": 219.5,
    "windows": 125.7,
    "experts": 135.3,
    "repacked": 217.8,
}
"""Measured with a context of 4096, one slot, f16; MiB."""


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_other_shapes_take_what_was_measured(shape: Shape, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_shape(shape, file)
    asked = demand(read_header(file), weights_bytes=file.stat().st_size)
    assert estimate(asked, CPU).at_start_bytes() / MIB == pytest.approx(OTHER_SHAPES[shape.name], rel=0.1)


WITH_A_DRAFT = [
    # Of the embedded model as its own draft model: context, slots, cache type, MiB.
    (512, 1, "f16", 287.9),
    (512, 4, "q8_0", 315.3),
    (4096, 1, "q8_0", 363.0),
    (4096, 4, "f16", 989.5),
    (16384, 1, "q8_0", 651.6),
]


@pytest.mark.parametrize(("context", "slots", "cache_type", "mib"), WITH_A_DRAFT)
def test_model_with_a_draft_model_takes_what_was_measured(
    embedded: Demand, context: int, slots: int, cache_type: str, mib: float
) -> None:
    run = replace(embedded.run, cache_type=cache_type, draft_model=embedded.run.weights)  # type: ignore[arg-type]
    asked = replace(embedded, run=run, draft=Draft(embedded.facts, embedded.weights_bytes))
    assert estimate(asked, Fit(context, slots, 0, 1)).at_start_bytes() / MIB == pytest.approx(mib, rel=0.1)


RANKING = {
    "reranker": [(512, 1, 139.3), (2048, 1, 349.1), (2048, 4, 349.5)],
    "many-words": [(512, 1, 425.1), (2048, 4, 1329.8), (8192, 1, 5028.4)],
}
"""Rerankers that only read, after a pair as long as the context: context, slots, MiB."""


@pytest.mark.parametrize("shape", RERANKERS, ids=lambda shape: shape.name)
def test_reranker_takes_what_was_measured(shape: RerankerShape, tmp_path: Path) -> None:
    """It keeps nothing of what it read, and its vocabulary counts for each token of the longest pair."""
    file = tmp_path / "m.gguf"
    write_reranker(shape, file)
    for context, slots, mib in RANKING[shape.name]:
        asked = ranking(case(shape.name, file, context, slots, "f16"))
        items = {item.what: item for item in estimate(asked.demand, asked.fit).items}
        assert items[OUTPUTS].grows
        assert not any("KV cache" in what for what in items)
        assert predict(asked) / MIB == pytest.approx(mib, rel=0.1)


def test_reranker_that_could_also_write_takes_what_was_measured(tmp_path: Path) -> None:
    """Of Qwen's kind; with 4 slots and a context of 2048."""
    shape = Shape("q", "qwen3", layers=6, embedding=512, heads=8, kv_heads=2, vocabulary=60_000, labels=("yes", "no"))
    write_shape(shape, tmp_path / "m.gguf")
    asked = ranking(case("q", tmp_path / "m.gguf", 2048, 4, "f16"))
    assert predict(asked) / MIB == pytest.approx(1058.9, rel=0.1)


WITH_A_PROJECTOR = {"few patches": 163.1, "many patches": 195.6, "wide layers": 344.3}
"""The embedded model with each of these, a context of 512, one slot; MiB."""


def with_projector(demand: Demand, shape: ProjectorShape, folder: Path) -> Demand:
    file = folder / "eye.gguf"
    write_projector(shape, file)
    run = replace(demand.run, mmproj=WeightsId(file, file.stat().st_size, 1))
    return replace(demand, run=run, projector=read_header(file).projector)


@pytest.mark.parametrize("shape", PROJECTORS, ids=lambda shape: shape.name)
def test_model_with_a_projector_takes_what_was_measured(
    embedded: Demand, shape: ProjectorShape, tmp_path: Path
) -> None:
    asked = with_projector(embedded, shape, tmp_path)
    predicted = estimate(asked, Fit(512, 1, 0, 1)).at_start_bytes()
    assert predicted / MIB == pytest.approx(WITH_A_PROJECTOR[shape.name], rel=0.1)


def test_first_image_takes_buffers_that_a_start_must_have_room_for(embedded: Demand, tmp_path: Path) -> None:
    """Measured: 46.8 and 45.1 MiB more after the first image."""
    for shape, mib in zip(PROJECTORS[1:], (46.8, 45.1), strict=True):
        made = estimate(with_projector(embedded, shape, tmp_path), Fit(512, 1, 0, 1))
        [buffers] = [item for item in made.items if item.what == "buffers for an image"]
        assert buffers.grows
        assert buffers.size_bytes / MIB == pytest.approx(mib, rel=0.1)


def test_images_being_read_take_room_for_each_slot(embedded: Demand, tmp_path: Path) -> None:
    """Measured: the most above its text, with PNG pictures of 16 million pixels and 6 MB, one for each slot at once.

    A progressive JPEG of four colours takes the most for a pixel.
    """
    asked = with_projector(embedded, PROJECTORS[0], tmp_path)
    for slots, mib in ((1, 295.5), (4, 969.0)):
        items = estimate(asked, Fit(2048, slots, 0, 1)).items
        [reading] = [item for item in items if item.what == "images being read"]
        assert reading.grows
        assert mib < reading.size_bytes / MIB < 1.3 * mib
        assert reading.size_bytes > 15.3 * MAX_IMAGE_PIXELS * slots


def test_images_of_a_request_are_booked_as_numbers_all_at_once(embedded: Demand, tmp_path: Path) -> None:
    """Measured: 200 pictures of one pixel took 300 MiB more, and 1,000 took 1.7 GB, with a projector of 256 x 256."""
    asked = with_projector(embedded, PROJECTORS[0], tmp_path)
    [numbers] = [item for item in estimate(asked, Fit(2048, 2, 0, 1)).items if item.what == "images as numbers"]
    assert numbers.grows
    assert numbers.size_bytes / MIB == pytest.approx(2 * MAX_MEDIA * 1.5)


@pytest.mark.parametrize("layers", [-1, 10])
def test_draft_model_and_projector_lie_on_the_gpu_where_layers_do(
    embedded: Demand, tmp_path: Path, layers: int
) -> None:
    asked = with_projector(embedded, PROJECTORS[0], tmp_path)
    run = replace(asked.run, draft_model=asked.run.weights)
    asked = replace(asked, run=run, draft=Draft(embedded.facts, embedded.weights_bytes))
    made = estimate(asked, Fit(4096, 2, layers, 1, gpus=(0, 1), gpu_shares=(1, 1)))
    plain = estimate(embedded, Fit(4096, 2, layers, 1, gpus=(0, 1), gpu_shares=(1, 1)))

    def where(what: str) -> set[str]:
        return {item.device for item in made.items if item.what == what}

    assert where("draft model's KV cache of 2 x 4096 tokens") == {"GPU 0", "GPU 1"}
    assert where("projector") == where("buffers for an image") == {"GPU 0"}
    assert sum("CUDA context" in item.what for item in made.items) == 2, "both share one on each GPU"
    assert made.takes["GPU 0"] > plain.takes["GPU 0"] + 80 * MIB
    assert not any(item.grows for item in made.items if item.device.startswith("GPU"))


def test_unread_companions_count_by_their_size(embedded: Demand) -> None:
    file = WeightsId(Path("/models/x.gguf"), 100 * MIB, 1)
    plain = estimate(embedded, CPU).takes[RAM]
    drafted = replace(embedded, run=replace(embedded.run, draft_model=file), draft=Draft(None, 100 * MIB))
    sees = replace(embedded, run=replace(embedded.run, mmproj=file))
    unread = replace(drafted, facts=None)

    assert estimate(drafted, CPU).takes[RAM] >= plain + 100 * MIB
    assert estimate(sees, CPU).takes[RAM] >= plain + 100 * MIB
    assert estimate(unread, CPU).takes[RAM] >= embedded.weights_bytes + 100 * MIB


def test_layers_are_counted_as_llama_server_does_the_output_first() -> None:
    assert [layers_on_gpu(28, layers) for layers in (None, -1, 0, 1, 2, 28, 29, 999)] == [28, 28, 0, 0, 1, 27, 28, 28]


def test_all_layers_on_a_gpu_leave_the_host_the_input_and_the_process() -> None:
    made = estimate(demand(SEVEN), Fit(4096, 1, -1, 7, gpus=(0,)))
    assert made.takes["GPU 0"] > 4 * GIB
    assert made.takes[RAM] < 2 * GIB
    assert not any(item.what.startswith("KV cache") for item in made.items if item.device == RAM)


def test_hybrid_takes_neither_more_nor_less_of_weights_and_cache_than_the_model_has() -> None:
    whole = estimate(demand(SEVEN), CPU)
    hybrid = estimate(demand(SEVEN), Fit(4096, 1, 15, 7, gpus=(0,)))

    def of(made: Estimate, what: str) -> int:
        return sum(item.size_bytes for item in made.items if item.what.startswith(what))

    assert of(hybrid, "KV cache") == of(whole, "KV cache")
    assert of(hybrid, "weights") == of(whole, "weights")


def test_several_gpus_share_weights_and_have_contexts_of_their_own() -> None:
    made = estimate(demand(SEVEN), Fit(4096, 1, -1, 7, gpus=(0, 2), gpu_shares=(3, 1)))
    weights = {item.device: item.size_bytes for item in made.items if item.what == "weights"}
    assert weights["GPU 0"] == pytest.approx(3 * weights["GPU 2"], rel=0.001)
    contexts = [item.size_bytes for item in made.items if item.what == "CUDA context"]
    assert len(contexts) == 2
    assert contexts[0] == contexts[1]


def test_nodes_share_the_hosts_memory_alike() -> None:
    made = estimate(demand(SEVEN), CPU, ("node 0", "node 1"))
    assert made.takes["node 0"] == pytest.approx(made.takes["node 1"], rel=0.001)
    assert sum(made.takes.values()) == pytest.approx(estimate(demand(SEVEN), CPU).takes[RAM], rel=0.001)


def test_header_that_nobody_read_leaves_the_size_of_the_file() -> None:
    made = estimate(demand(None, weights_bytes=GIB), CPU)
    assert not made.knows_shape
    assert GIB < made.takes[RAM] < 1.2 * GIB


def test_latent_attention_needs_a_fraction_of_the_cache() -> None:
    deep = {"layers": 27, "embedding": 2048, "feed_forward": 10_944, "heads": 16, "kv_heads": 16, "tokens": 1000}
    plain = facts_of(**deep, context=8192, weights_bytes=GIB, key_length=192, value_length=128)
    latent = facts_of(**deep, context=8192, weights_bytes=GIB, latent_length=576)

    def cache(facts: GgufFacts) -> int:
        return sum(i.size_bytes for i in estimate(demand(facts), CPU).items if i.what.startswith("KV"))

    assert cache(latent) == 27 * 576 * 2 * 4096
    assert cache(plain) == 27 * 16 * 320 * 2 * 4096


def test_last_run_that_took_more_is_added_and_shown() -> None:
    plain = estimate(demand(SEVEN), CPU)
    corrected = estimate(replace(demand(SEVEN), ratio=1.1), CPU)
    assert corrected.at_start_bytes() == pytest.approx(1.1 * plain.at_start_bytes(), rel=0.001)
    assert corrected.uncorrected_bytes == plain.at_start_bytes(), "else a correction would correct itself"
    assert "more, by its last run" in corrected.words(RAM)


def test_arithmetic_adds_up() -> None:
    made = estimate(demand(SEVEN), CPU)
    assert made.takes[RAM] == sum(item.size_bytes for item in made.items)
    assert made.words(RAM).startswith("weights 4.4 GiB + KV cache of 1 x 4096 tokens 224.0 MiB + ")
