"""What is found in models/, declared or dropped, and what is not taken for a model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.errors import WeightsBrokenError
from app.manifest.schema import ModelSection
from app.weights import inventory
from app.weights.gguf import GgufFacts, read_header
from app.weights.inventory import MAX_ENTRIES, HeaderCache, Inventory, take_inventory
from tests.support.gguf import minimal_adapter, minimal_gguf


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models/ with an empty custom/."""
    (tmp_path / "models" / "custom").mkdir(parents=True)
    return tmp_path / "models"


def take(models: Path, *names: str, headers: HeaderCache | None = None, read_headers: bool = True) -> Inventory:
    custom = models / "custom"
    return take_inventory(models, names, finetuned_dir=custom, headers=headers, read_headers=read_headers)


def drop(models: Path, name: str, content: bytes | None = None) -> Path:
    file = models / "custom" / name
    file.write_bytes(minimal_gguf() if content is None else content)
    return file


def dropped(models: Path) -> list[str]:
    return [file.name for file in take(models).dropped]


def test_declared_file_is_found_with_its_size_time_and_header(models: Path) -> None:
    file = models / "a.gguf"
    file.write_bytes(minimal_gguf(general__name="A"))
    found = take(models, "a.gguf", "missing.gguf").files

    assert found.keys() == {"a.gguf"}
    assert (found["a.gguf"].id.path, found["a.gguf"].id.size_bytes) == (file, file.stat().st_size)
    assert found["a.gguf"].facts == read_header(file)
    assert found["a.gguf"].problem is None


def test_declared_file_that_is_broken_has_its_problem_and_no_facts(models: Path) -> None:
    (models / "a.gguf").write_bytes(b"GGUF")
    (models / "folder.gguf").mkdir()
    found = take(models, "a.gguf", "folder.gguf").files

    assert found["a.gguf"].facts is None
    assert "a.gguf ends in the middle of its header" in (found["a.gguf"].problem or "")
    assert "folder.gguf" not in found, "what is no regular file counts as missing"


def test_dropped_file_is_found_with_what_lies_beside_it(models: Path) -> None:
    drop(models, "mine.gguf")
    drop(models, "mine.yaml", b"description: My own\ncontext_length: 8k\n")
    drop(models, "lora.gguf", minimal_adapter("Base"))
    found = take(models)
    lora, mine = found.dropped

    assert (lora.name, lora.sidecar, lora.problem) == ("custom/lora.gguf", None, None)
    assert (mine.name, mine.problem) == ("custom/mine.gguf", None)
    assert mine.sidecar is not None
    assert (mine.sidecar.description, mine.sidecar.context_length) == ("My own", 8192)
    facts = found.files["custom/lora.gguf"].facts
    assert facts is not None
    assert facts.is_adapter
    assert found.problem is None


def test_file_that_the_manifest_names_is_not_dropped_too(models: Path) -> None:
    drop(models, "mine.gguf")
    found = take(models, "custom/mine.gguf")

    assert found.files.keys() == {"custom/mine.gguf"}
    assert found.dropped == ()


def test_what_is_no_whole_model_is_passed_over(models: Path) -> None:
    """A copy or download under way has another name until it is whole; the parts of a model are not models."""
    half = (".hidden.gguf", "a.gguf.part", "b.gguf.incomplete", "c.tmp", "notes.txt", "D.GGUF")
    odd = ("e\x1b.gguf", "f\\g.gguf", "m-00002-of-00003.gguf", "half-00001-of-00002.gguf")
    for name in (*half, *odd, "m-00001-of-00003.gguf", "m-00003-of-00003.gguf", "with space.gguf"):
        drop(models, name)
    drop(models, os.fsdecode(b"g\xff.gguf"))
    (models / "custom" / "folder.gguf").mkdir()
    os.mkfifo(models / "custom" / "fifo.gguf")

    assert dropped(models) == ["custom/m-00001-of-00003.gguf", "custom/with space.gguf"]


@pytest.mark.parametrize("present", [True, False])
def test_folder_that_is_missing_or_empty_is_no_problem(models: Path, present: bool) -> None:
    if not present:
        (models / "custom").rmdir()

    assert take(models) == Inventory()


def test_link_that_leads_out_of_models_is_not_opened(models: Path, tmp_path: Path) -> None:
    """What is opened here is shown to clients, if only its name."""
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(minimal_gguf(general__name="secret"))
    (models / "custom" / "link.gguf").symlink_to(outside)
    found = take(models)

    assert [file.problem for file in found.dropped] == [
        "it is a link that leads out of models/; put the file itself there"
    ]
    assert found.files == {}


def test_sidecar_that_leads_out_of_models_is_not_read(models: Path, tmp_path: Path) -> None:
    """Its lines would be shown with what is wrong with them."""
    (tmp_path / "secret.yaml").write_text("password: hunter2\n")
    drop(models, "mine.gguf")
    (models / "custom" / "mine.yaml").symlink_to(tmp_path / "secret.yaml")
    [mine] = take(models).dropped

    assert mine.problem == "mine.yaml is a link that leads out of models/; put the file there"


def test_folder_that_leads_out_of_models_is_not_looked_at(models: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.gguf").write_bytes(minimal_gguf())
    (models / "custom").rmdir()
    (models / "custom").symlink_to(tmp_path / "elsewhere")
    found = take(models)

    assert found.dropped == ()
    assert found.problem == "custom/ is a link that leads out of models/, so nothing in it is looked at"


def test_link_within_models_is_followed(models: Path) -> None:
    (models / "a.gguf").write_bytes(minimal_gguf())
    (models / "custom" / "link.gguf").symlink_to(models / "a.gguf")

    assert dropped(models) == ["custom/link.gguf"]


def test_folder_with_too_many_entries_is_looked_at_in_part_and_says_so(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "MAX_ENTRIES", 3)
    for name in "abcde":
        drop(models, f"{name}.gguf")
    found = take(models)

    assert MAX_ENTRIES == 1000
    assert len(found.dropped) == 3
    assert found.problem == "custom/ has more than 3 entries, and the others are not looked at"


def test_broken_sidecar_is_answered_with_its_lines_and_breaks_nothing_else(models: Path) -> None:
    drop(models, "bad.gguf")
    drop(models, "bad.yaml", b"contxt_length: 8k\nfilename: ../x.gguf\nadapters: []\n")
    drop(models, "good.gguf")
    bad, good = take(models).dropped

    assert bad.sidecar is None
    assert "custom/bad.yaml:1:1: contxt_length: no such setting; did you mean `context_length`?" in (bad.problem or "")
    assert "custom/bad.yaml:2:11: filename: must be a .gguf file below models/" in (bad.problem or "")
    assert good.problem is None


def test_sidecar_may_not_name_other_files(models: Path) -> None:
    """It describes the one beside it; a name in it would point anywhere in models/."""
    drop(models, "m.gguf")
    drop(models, "m.yaml", b"filename: other.gguf\nadapters: [x.gguf]\n")
    [file] = take(models).dropped

    assert "custom/m.yaml:1:1: filename: may not stand in a file beside a model" in (file.problem or "")
    assert "custom/m.yaml:2:1: adapters: may not stand" in (file.problem or "")


def test_without_reading_headers_only_what_is_known_is_said(models: Path) -> None:
    """A start takes one stat for each file; the headers follow."""
    (models / "a.gguf").write_bytes(minimal_gguf())
    drop(models, "mine.gguf")
    headers = HeaderCache()
    quick = take(models, "a.gguf", headers=headers, read_headers=False)

    assert (quick.files["a.gguf"].facts, quick.files["a.gguf"].problem) == (None, None)
    assert quick.dropped[0].problem == "it has not been looked into yet; try again in a moment"
    whole = take(models, "a.gguf", headers=headers)
    assert take(models, "a.gguf", headers=headers, read_headers=False) == whole
    assert quick.seen == whole.seen


def test_header_is_read_once_for_each_size_and_time(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(path: Path) -> GgufFacts:
        read.append(path.name)
        return read_header(path)

    monkeypatch.setattr(inventory, "read_header", counting)
    (models / "a.gguf").write_bytes(minimal_gguf())
    (models / "broken.gguf").write_bytes(b"GG")
    headers = HeaderCache()
    first = take(models, "a.gguf", "broken.gguf", headers=headers)
    assert take(models, "a.gguf", "broken.gguf", headers=headers) == first
    assert read == ["a.gguf", "broken.gguf"], "a header that is broken is not read again either"

    (models / "a.gguf").write_bytes(minimal_gguf(general__name="another"))
    facts = take(models, "a.gguf", "broken.gguf", headers=headers).files["a.gguf"].facts
    assert facts is not None
    assert facts.name == "another"
    assert read == ["a.gguf", "broken.gguf", "a.gguf"]


def test_whatever_changes_is_seen(models: Path) -> None:
    """Who watches compares this."""
    (models / "a.gguf").write_bytes(minimal_gguf())
    looks = [take(models, "a.gguf").seen]
    file = drop(models, "mine.gguf")
    looks.append(take(models, "a.gguf").seen)
    sidecar = drop(models, "mine.yaml", b"description: x\n")
    looks.append(take(models, "a.gguf").seen)
    sidecar.unlink()
    file.write_bytes(minimal_adapter())
    looks.append(take(models, "a.gguf").seen)

    assert len(set(looks)) == len(looks)


def test_cache_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeaderCache, "_MOST", 2)
    headers = HeaderCache()
    for number in range(5):
        (tmp_path / f"{number}.gguf").write_bytes(minimal_gguf())
        take_inventory(tmp_path, [f"{number}.gguf"], headers=headers)

    assert len(headers._known) <= 2


def test_read_errors_of_a_header_are_words(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsBrokenError) as caught:
        read_header(tmp_path / "a.gguf")

    assert take_inventory(tmp_path, ["a.gguf"]).files["a.gguf"].problem == caught.value.message


def test_hub_model_without_a_name_is_found_where_its_download_lies(models: Path) -> None:
    """Nobody is asked: the choice among names on disk is the one that was made among the hub's."""
    folder = models / "org" / "repo"
    folder.mkdir(parents=True)
    for name in ("m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-m-Q4_K_M.gguf", ".m-Q5_0.gguf.aaaa.part"):
        (folder / name).write_bytes(minimal_gguf())
    wanted = [ModelSection(hf_repo=f"org/repo:{quantisation}") for quantisation in ("Q4_K_M", "q8_0", "Q5_0")]
    found = take_inventory(models, [], remote=wanted)

    files = [file and file.id.path.name for file in map(found.file_of, wanted)]
    assert files == ["m-Q4_K_M.gguf", "m-Q8_0.gguf", None]
    assert len(found.seen) == 2


def test_model_in_a_cache_of_the_hub_is_used_from_there(models: Path, tmp_path: Path) -> None:
    """As huggingface_hub lays it out: a link of the revision that main names, to a blob."""
    cache = tmp_path / "hub"
    repo = cache / "models--org--repo"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / "b1").write_bytes(minimal_gguf())
    for revision in ("aaa", "bbb"):
        (repo / "snapshots" / revision).mkdir(parents=True)
        (repo / "snapshots" / revision / "m-Q4_0.gguf").symlink_to("../../blobs/b1")
    (repo / "snapshots" / "bbb" / "m-Q8_0.gguf").symlink_to("../../blobs/gone")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("bbb")
    model, gone = ModelSection(hf_repo="org/repo:Q4_0"), ModelSection(hf_repo="org/repo:Q8_0")
    found = take_inventory(models, [], remote=[model, gone], caches=[cache])

    file = found.file_of(model)
    assert file is not None
    assert file.id.path == repo / "snapshots" / "bbb" / "m-Q4_0.gguf"
    assert found.file_of(gone) is None


def test_model_in_the_older_cache_of_llama_cpp_is_found(models: Path, tmp_path: Path) -> None:
    (tmp_path / "org_repo_m-Q4_0.gguf").write_bytes(minimal_gguf())
    model = ModelSection(hf_repo="org/repo:Q4_0")
    file = take_inventory(models, [], remote=[model], caches=[tmp_path]).file_of(model)
    assert file is not None
    assert file.id.path == tmp_path / "org_repo_m-Q4_0.gguf"


def test_file_that_the_manifest_names_comes_before_what_was_downloaded(models: Path) -> None:
    (models / "org" / "repo").mkdir(parents=True)
    (models / "org" / "repo" / "m-Q4_0.gguf").write_bytes(minimal_gguf())
    (models / "mine.gguf").write_bytes(minimal_gguf())
    model = ModelSection(hf_repo="org/repo:Q4_0", filename="mine.gguf")
    file = take_inventory(models, ["mine.gguf"], remote=[model]).file_of(model)
    assert file is not None
    assert file.id.path == models / "mine.gguf"
