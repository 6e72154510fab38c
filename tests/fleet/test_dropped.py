"""What was dropped into the folder for fine-tunes, as models: their keys, their bases, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.devices.probe import Host
from app.devices.profiles import ProfileChoice
from app.fleet.dropped import dropped_models
from app.fleet.spec import ModelSpec, model_specs
from app.manifest.schema import Manifest, ProfileSection
from app.weights.inventory import Inventory, take_inventory
from tests.support.gguf import gguf, minimal_adapter, minimal_gguf

BASE: dict[str, Any] = {
    "filename": "base.gguf",
    "description": "The base",
    "context_length": 2048,
    "n_threads": 3,
    "aliases": ["org/base"],
    "preload": True,
    "idle_timeout": 60,
}


class House:
    """A folder of models and a manifest for them."""

    def __init__(self, folder: Path) -> None:
        self.models_dir = folder / "models"
        (self.models_dir / "custom").mkdir(parents=True)
        self.sections: dict[str, Any] = {"base": BASE}
        self.lay("base.gguf", minimal_gguf(general__name="Base 1B Instruct"))

    def lay(self, name: str, content: bytes) -> None:
        (self.models_dir / name).write_bytes(content)

    def drop(self, name: str, content: bytes, sidecar: str | None = None) -> None:
        self.lay(f"custom/{name}.gguf", content)
        if sidecar is not None:
            self.lay(f"custom/{name}.yaml", sidecar.encode())

    @property
    def manifest(self) -> Manifest:
        return Manifest.model_validate({"version": 1, "default_model": "base", "models": self.sections})

    @property
    def inventory(self) -> Inventory:
        sections = self.manifest.models.values()
        names = [name for model in sections for name in model.file_names]
        return take_inventory(self.models_dir, names, finetuned_dir=self.models_dir / "custom")

    def keys(self) -> list[str]:
        return list(dropped_models(self.manifest, self.inventory))

    def specs(self) -> dict[str, ModelSpec]:
        profile = ProfileChoice("generic", ProfileSection(), "it matches any host")
        host = Host(cores=8, can_offload=False)
        return dict(model_specs(self.manifest, profile, host, self.inventory, forced_gpu_layers=None))

    def problem(self, key: str) -> str:
        said = self.specs()[key].problem
        assert said is not None
        return said


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_dropped_model_appears_after_the_declared_ones_and_goes_with_its_file(house: House) -> None:
    house.drop("mine", minimal_gguf(llama__context_length=32768, general__file_type=7))
    assert list(house.specs()) == ["base", "mine"]
    mine = house.specs()["mine"]

    assert (mine.problem, mine.expected_file) == (None, "models/custom/mine.gguf")
    assert mine.run.weights is not None
    assert mine.run.weights.path == house.models_dir / "custom" / "mine.gguf"
    assert mine.section.is_finetuned
    assert mine.run.kinds == {"chat"}
    assert mine.facts is not None
    assert mine.facts.quantisation == "Q8_0"

    (house.models_dir / "custom" / "mine.gguf").unlink()
    assert list(house.specs()) == ["base"]


@pytest.mark.parametrize(
    ("trained", "sidecar", "context_tokens"),
    [(32768, None, 4096), (1024, None, 1024), (None, None, 4096), (32768, "context_length: 16k", 16384)],
)
def test_context_of_a_dropped_model_is_what_it_was_trained_for_within_reason(
    house: House, trained: int | None, sidecar: str | None, context_tokens: int
) -> None:
    """The whole context of a large model may not fit; whoever wants more says so."""
    house.drop("mine", minimal_gguf(**({} if trained is None else {"llama__context_length": trained})), sidecar)

    assert house.specs()["mine"].run.context_length == context_tokens


def test_sidecar_describes_and_tunes_a_dropped_model(house: House) -> None:
    sidecar = "name: Mine\nparallel: 4\nn_threads: 2\nbase_model: base\ntraining_data: letters\naliases: [me]\n"
    house.drop("mine", minimal_gguf(), sidecar)
    mine = house.specs()["mine"]

    assert (mine.section.name, mine.section.base_model, mine.section.training_data) == ("Mine", "base", "letters")
    assert (mine.run.slots, mine.run.threads, mine.section.aliases) == (4, 2, ["me"])
    assert mine.section.is_finetuned


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Qwen2.5-7B_Q4.1", "Qwen2.5-7B_Q4.1"),
        ("my model (final)", "my-model-final"),
        ("-_x", "x"),
        ("模型", "model"),
        ("x" * 100, "x" * 64),
        ("Base", "Base-2"),
        ("default", "default-2"),
        ("org/base", "org-base"),
    ],
)
def test_key_is_made_from_the_files_name_and_takes_nobody_elses(house: House, name: str, key: str) -> None:
    house.drop(name.replace("/", "\N{DIVISION SLASH}"), minimal_gguf())

    assert house.keys() == [key]


def test_files_of_the_same_key_get_numbers(house: House) -> None:
    for name in ("a b", "a-b", "A+B"):
        house.drop(name, minimal_gguf())

    assert house.keys() == ["A-B", "a-b-2", "a-b-3"]


def test_alias_that_is_taken_stays_with_the_manifest(house: House) -> None:
    house.drop("mine", minimal_gguf(), "aliases: [ORG/base, base, mine2, default]")
    house.drop("mine2", minimal_gguf(), "aliases: [mine]")
    specs = house.specs()

    assert specs["mine"].section.aliases == ["mine2"]
    assert specs["mine2-2"].section.aliases == []


def test_adapter_is_laid_over_the_model_that_its_header_names(house: House) -> None:
    """Case, spaces and dashes differ between converters."""
    house.drop("letters", minimal_adapter("base-1B_instruct"))
    base, letters = house.specs().values()

    assert letters.problem is None
    assert letters.run.weights == base.run.weights
    assert [adapter.path.name for adapter in letters.run.adapters] == ["letters.gguf"]
    assert (letters.run.threads, letters.run.context_length) == (3, 2048), "it runs as its base does"
    assert letters.section.idle_timeout == 60
    assert (letters.section.is_finetuned, letters.section.base_model) == (True, "base")
    assert (letters.section.description, letters.section.aliases, letters.section.preload) == ("", [], False)
    assert letters.facts == base.facts


def test_sidecar_of_an_adapter_names_its_base_and_wins_over_it(house: House) -> None:
    house.drop("letters", minimal_adapter("Something else"), "base_model: base\ncontext_length: 1024\naliases: [l]\n")
    letters = house.specs()["letters"]

    assert (letters.problem, letters.run.context_length, letters.run.threads) == (None, 1024, 3)
    assert letters.section.aliases == ["l"]


def test_adapter_of_a_tuned_model_is_laid_over_what_that_has(house: House) -> None:
    house.lay("first.gguf", minimal_adapter("Base 1B Instruct"))
    house.sections |= {"tuned": {"filename": "base.gguf", "adapters": ["first.gguf"]}}
    house.drop("second", minimal_adapter(), "base_model: tuned\n")

    assert [adapter.path.name for adapter in house.specs()["second"].run.adapters] == ["first.gguf", "second.gguf"]


def test_adapter_whose_base_is_not_known_says_to_write_a_sidecar(house: House) -> None:
    house.drop("nameless", minimal_adapter())
    house.drop("stranger", minimal_adapter("Other 7B"))
    fix = "to fix: write `base_model: KEY` into {}.yaml beside it"

    assert house.problem("nameless") == (
        f"nameless.gguf is a LoRA adapter, and its header does not say of which model; {fix.format('nameless')}"
    )
    assert "no model of airlab.yaml is 'Other 7B' by its header" in house.problem("stranger")
    assert house.specs()["stranger"].run.weights is None


def test_adapter_that_two_models_could_be_the_base_of_says_so(house: House) -> None:
    house.sections |= {"again": {"filename": "base.gguf"}}
    house.drop("letters", minimal_adapter("Base 1B Instruct"))

    assert "base, again could all be its base" in house.problem("letters")


def test_sidecar_that_names_a_base_that_there_is_not_says_so(house: House) -> None:
    house.drop("letters", minimal_adapter("Base 1B Instruct"), "base_model: bsae\n")

    assert "its base_model is 'bsae', and airlab.yaml has no model of that key" in house.problem("letters")


def test_adapter_of_a_base_without_a_file_says_so(house: House) -> None:
    (house.models_dir / "base.gguf").unlink()
    house.drop("letters", minimal_adapter(), "base_model: base\n")

    assert house.problem("letters") == "its base model base has no file on disk"
    assert house.specs()["base"].problem is None, "a missing file has words of its own"


def test_broken_file_and_broken_sidecar_are_shown_with_their_words(house: House) -> None:
    house.drop("half", minimal_gguf()[:-40])
    house.drop("odd", minimal_gguf(), "contxt_length: 1\n")
    house.drop("eye", gguf({"general.architecture": "clip", "general.type": "mmproj"}))
    house.drop("control", gguf({"general.architecture": "llama", "general.type": "imatrix"}))

    assert "half.gguf has " in house.problem("half")
    assert "custom/odd.yaml:1:1: contxt_length" in house.problem("odd")
    assert house.problem("eye") == (
        "eye.gguf holds no model: it is a multimodal projector; to fix: name it as `mmproj` of the model that it "
        "belongs to"
    )
    assert house.problem("control") == "custom/control.gguf holds no model: it says that it is of the type 'imatrix'"


def test_projector_that_a_sidecar_names_is_part_of_that_model_and_none_of_its_own(house: House) -> None:
    house.drop("mine", minimal_gguf(), "mmproj: custom/eye.gguf\n")
    house.drop("eye", gguf({"general.architecture": "clip", "general.type": "mmproj"}))

    specs = house.specs()
    assert "eye" not in specs
    assert specs["mine"].problem is None
    assert specs["mine"].run.mmproj is not None
    assert specs["mine"].modalities == ("text", "image")


def test_sidecar_may_name_files_that_no_manifest_names(house: House) -> None:
    """A fine-tune that sees is dropped with its projector, and its description is all that there is of it."""
    house.drop("mine", minimal_gguf(), "mmproj: eyes/eye.gguf\n")

    assert house.problem("mine") == "its multimodal projector is not on disk; to fix: put it at models/eyes/eye.gguf"
    assert house.specs()["base"].problem is None


def test_declared_adapters_are_laid_over_their_model(house: House) -> None:
    house.lay("a.gguf", minimal_adapter())
    house.sections["base"] = BASE | {"adapters": ["a.gguf"]}
    base = house.specs()["base"]

    assert (base.problem, [adapter.path.name for adapter in base.run.adapters]) == (None, ["a.gguf"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "its LoRA adapter is not on disk; to fix: put it at models/a.gguf"),
        (b"GG", "a.gguf ends in the middle of its header"),
        (minimal_gguf(), "a.gguf is no LoRA adapter"),
        (minimal_adapter(architecture="qwen2"), "a.gguf is a LoRA adapter for qwen2, and the model is llama"),
    ],
)
def test_declared_adapter_that_does_not_fit_keeps_its_model_from_starting(
    house: House, content: bytes | None, words: str
) -> None:
    """Without its adapter it would be another model than the one that was asked for."""
    if content is not None:
        house.lay("a.gguf", content)
    house.sections["base"] = BASE | {"adapters": ["a.gguf"]}

    assert house.problem("base").startswith(words)


def test_declared_adapter_as_a_model_is_refused(house: House) -> None:
    house.lay("base.gguf", minimal_adapter())

    assert house.problem("base") == "base.gguf holds no model: it says that it is of the type 'adapter'"


def test_header_that_is_read_later_restarts_nothing_that_is_declared(house: House) -> None:
    """A start takes one stat for each file; the headers follow, and a model that loads by then goes on."""
    names = ["base.gguf"]
    profile, host = ProfileChoice("generic", ProfileSection(), ""), Host(cores=8, can_offload=False)
    runs = [
        model_specs(
            house.manifest,
            profile,
            host,
            take_inventory(house.models_dir, names, read_headers=read_headers),
            forced_gpu_layers=None,
        )["base"].run
        for read_headers in (False, True)
    ]

    assert runs[0] == runs[1]
