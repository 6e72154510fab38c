"""Files that go with a model's own: looked up, looked into, and refused with words before an engine is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.devices.probe import Host
from app.devices.profiles import ProfileChoice
from app.fleet.spec import ModelSpec, model_specs
from app.manifest.schema import Manifest, ProfileSection
from app.weights.inventory import take_inventory
from tests.support.gguf import Tensor, gguf, minimal_adapter, minimal_gguf, with_tokens

FILES: Mapping[str, bytes] = {
    "m.gguf": with_tokens(),
    "eye.gguf": gguf({"general.architecture": "clip", "general.type": "mmproj"}),
    "draft.gguf": with_tokens(),
    "stranger.gguf": with_tokens(prefix="other"),
    "dumb.gguf": minimal_gguf(),
    "lora.gguf": minimal_adapter(),
    "half.gguf": with_tokens()[:-40],
    "ranks.gguf": gguf({"general.architecture": "bert"}, [Tensor("cls.weight")]),
    "embeds.gguf": minimal_gguf(general__architecture="bert", bert__pooling_type=4),
    "part.gguf": minimal_gguf(split__count=2),
}
SpecOf = Callable[..., ModelSpec]


@pytest.fixture
def spec_of(tmp_path: Path) -> SpecOf:
    """Makes the spec of a model with these keys, on a profile of this name."""
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)

    def make(profile: str = "generic", *, read_headers: bool = True, **keys: Any) -> ModelSpec:
        entry = {"filename": "m.gguf", **keys}
        manifest = Manifest.model_validate(
            {
                "version": 1,
                "default_model": "m",
                "profiles": {"generic": {}, "slow": {"n_gpu_layers": 0}},
                "models": {"m": entry},
            }
        )
        weights = take_inventory(tmp_path, manifest.models["m"].file_names, read_headers=read_headers)
        choice, host = ProfileChoice(profile, ProfileSection(), "asked for"), Host(cores=4, can_offload=False)
        return model_specs(manifest, choice, host, weights, forced_gpu_layers=None)["m"]

    return make


def test_files_beside_the_weights_are_part_of_the_run(spec_of: SpecOf) -> None:
    """A model restarts when its run differs: so does one whose projector or draft model was replaced."""
    spec = spec_of(adapters=["lora.gguf"], mmproj="eye.gguf", draft_model="draft.gguf", draft_tokens=5)

    assert spec.problem is None
    assert [file.path.name for file in spec.run.files] == ["m.gguf", "lora.gguf", "eye.gguf", "draft.gguf"]
    assert spec.run.draft_tokens == 5
    assert (spec.modalities, spec.draft_name) == (("text", "image"), "draft.gguf")
    assert spec.unread_files == ()


def test_model_may_be_its_own_draft(spec_of: SpecOf) -> None:
    spec = spec_of(draft_model="m.gguf")
    assert (spec.problem, spec.run.draft_model) == (None, spec.run.weights)


def test_host_may_have_another_draft_model_or_none(spec_of: SpecOf) -> None:
    keys = {"draft_model": "draft.gguf", "draft_tokens": 5}
    none = spec_of("slow", on={"slow": {"draft_model": "none"}}, **keys)
    other = spec_of("slow", on={"slow": {"draft_model": "m.gguf", "draft_tokens": 2}}, **keys)

    assert (none.run.draft_model, none.run.draft_tokens, none.draft_name) == (None, None, None)
    assert (other.draft_name, other.run.draft_tokens) == ("m.gguf", 2)
    assert spec_of("generic", on={"slow": {"draft_model": "none"}}, **keys).draft_name == "draft.gguf"


def test_host_without_a_draft_model_does_not_miss_its_file(spec_of: SpecOf) -> None:
    assert spec_of("slow", draft_model="nosuch.gguf", on={"slow": {"draft_model": "none"}}).problem is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mmproj": "nosuch.gguf"}, "its multimodal projector is not on disk; to fix: put it at models/nosuch.gguf"),
        ({"draft_model": "nosuch.gguf"}, "its draft model is not on disk; to fix: put it at models/nosuch.gguf"),
        ({"mmproj": "half.gguf"}, "half.gguf has "),
        ({"mmproj": "draft.gguf"}, "draft.gguf is no multimodal projector but a model (llama); to fix: name the file"),
        ({"mmproj": "lora.gguf"}, "lora.gguf is no multimodal projector but of the type 'adapter'; to fix: "),
        ({"draft_model": "eye.gguf"}, "eye.gguf is no draft model but a multimodal projector; to fix: name a small"),
        ({"draft_model": "lora.gguf"}, "lora.gguf is no draft model but of the type 'adapter'; to fix: "),
        ({"draft_model": "dumb.gguf"}, "a file of the architecture 'llama' without a vocabulary; to fix: "),
        ({"draft_model": "stranger.gguf"}, "cannot guess tokens for this model: it has other tokens than the model; "),
        ({"adapters": ["eye.gguf"]}, "eye.gguf is no LoRA adapter"),
        (
            {"filename": "embeds.gguf", "kind": ["rerank"]},
            "embeds.gguf is no reranker, or one that was badly converted",
        ),
        ({"kind": ["rerank"]}, "m.gguf is no reranker"),
        ({"filename": "ranks.gguf"}, "ranks.gguf (bert) writes no text; to fix: say what it serves, `kind: [rerank]`"),
        ({"filename": "embeds.gguf"}, "writes no text; to fix: say what it serves, `kind: [embedding]`"),
        (
            {"filename": "eye.gguf"},
            "eye.gguf holds no model: it is a multimodal projector; to fix: name it as `mmproj`",
        ),
    ],
)
def test_wrong_file_is_refused_with_words(spec_of: SpecOf, keys: dict[str, Any], said: str) -> None:
    """llama-server says so after loading, or serves without a draft model that does not fit, and says nothing."""
    problem = spec_of(**keys).problem
    assert problem is not None
    assert said in problem


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ranks.gguf", ["rerank"]),
        ("ranks.gguf", ["embedding"]),
        ("embeds.gguf", ["embedding"]),
        ("embeds.gguf", ["chat", "embedding"]),
        ("part.gguf", ["rerank"]),
    ],
)
def test_file_that_may_serve_what_is_said_of_it_has_no_problem(spec_of: SpecOf, name: str, kind: list[str]) -> None:
    """Of one in several parts, the head of a reranker may lie in another part."""
    assert spec_of(filename=name, kind=kind).problem is None


def test_kind_is_not_judged_before_the_header_was_read(spec_of: SpecOf) -> None:
    assert spec_of(kind=["rerank"], read_headers=False).problem is None


def test_unread_files_are_taken_for_what_they_should_be_and_named(spec_of: SpecOf) -> None:
    """At a start no header is read; before memory is judged, they are."""
    spec = spec_of(mmproj="eye.gguf", draft_model="stranger.gguf", read_headers=False)

    assert (spec.problem, spec.modalities) == (None, ("text", "image"))
    assert [file.path.name for file in spec.unread_files] == ["m.gguf", "eye.gguf", "stranger.gguf"]
