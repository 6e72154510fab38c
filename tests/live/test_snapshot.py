"""From the inputs to what is in force: which profile, which model, by which names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from app.devices.probe import Host
from app.errors import ModelNotFoundError, SettingsError
from app.live.guards import policy_for
from app.live.inputs import first_inputs
from app.live.resolve import resolve
from app.live.snapshot import Overrides, Snapshot
from app.manifest.load import Loaded
from app.manifest.problems import ManifestProblems
from app.settings import Settings
from tests.support.gguf import minimal_gguf
from tests.support.manifest import loaded

HOST = Host(cores=8, can_offload=True)
MODELS: dict[str, Any] = {
    "a": {"filename": "a.gguf", "aliases": ["gpt-4o", "org/a:latest"]},
    "b": {"filename": "custom/b.gguf", "n_threads": 3, "parallel": 2},
    "remote": {"hf_repo": "org/repo"},
}


def manifest(**more: Any) -> Loaded:
    return loaded("a", MODELS, **more)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "models" / "custom").mkdir(parents=True)
    (tmp_path / "models" / "a.gguf").write_bytes(minimal_gguf())
    return Settings(manifest=tmp_path / "airlab.yaml", profile=None, n_gpu_layers=None)


def snapshot(settings: Settings, *, overrides: Overrides | None = None, **more: Any) -> Snapshot:
    inputs = first_inputs(manifest(**more), settings, HOST)
    return resolve(replace(inputs, overrides=overrides or Overrides()), generation=1)


@pytest.mark.parametrize("name", ["a", "gpt-4o", "org/a:latest", "default", None, ""])
def test_model_goes_by_its_key_its_aliases_and_default(settings: Settings, name: str | None) -> None:
    assert snapshot(settings).key_of(name) == "a"


def test_unknown_name_is_answered_with_the_keys_and_the_line_that_would_make_it_one(settings: Settings) -> None:
    with pytest.raises(ModelNotFoundError) as unknown:
        snapshot(settings).key_of("gpt-5")
    assert "there are a, b, remote" in unknown.value.message
    assert "`aliases: [gpt-5]`" in unknown.value.message


def test_unknown_name_is_shown_by_its_beginning_only(settings: Settings) -> None:
    with pytest.raises(ModelNotFoundError) as unknown:
        snapshot(settings).key_of("x" * 100_000)
    assert len(unknown.value.message) < 600


def test_default_model_of_the_profile_comes_before_the_manifests(settings: Settings) -> None:
    small = {"small": {"default_model": "b"}}
    assert snapshot(settings, profiles=small).chosen_model == "b"
    assert snapshot(settings, profiles=small, overrides=Overrides(chosen_model="a")).chosen_model == "a"


def test_switch_to_a_model_that_is_gone_falls_back_to_the_default(settings: Settings) -> None:
    assert snapshot(settings, overrides=Overrides(chosen_model="gone")).chosen_model == "a"


def test_forced_profile_must_be_in_the_manifest(settings: Settings) -> None:
    profiles = {"small": {}, "big": {"max_loaded": 4}}
    forced = settings.model_copy(update={"profile": "big"})
    assert snapshot(forced, profiles=profiles).profile.name == "big"
    with pytest.raises(SettingsError, match="AIRLAB_PROFILE=huge: no such profile; the manifest has small, big"):
        snapshot(settings.model_copy(update={"profile": "huge"}), profiles=profiles)


def test_models_own_value_wins_over_the_profiles_and_that_over_the_host(settings: Settings) -> None:
    by_host = snapshot(settings).models
    assert (by_host["a"].run.threads, by_host["b"].run.threads) == (7, 3)
    profiles = {"p": {"n_threads": 5, "parallel": 4, "n_gpu_layers": 10, "max_loaded": 2}}
    by_profile = snapshot(settings, profiles=profiles).models
    assert (by_profile["a"].run.threads, by_profile["b"].run.threads) == (5, 3)
    assert (by_profile["a"].run.slots, by_profile["b"].run.slots) == (4, 2)
    forced = settings.model_copy(update={"n_gpu_layers": 0})
    assert snapshot(forced, profiles=profiles).models["a"].run.gpu_layers == 0, "0 is a value, not an absence"


def test_engines_share_the_cores_and_leave_one(settings: Settings) -> None:
    """Two engines at two threads on two cores fell from 165 to 21 tokens/s each."""
    assert snapshot(settings, profiles={"p": {"max_loaded": 3}}).models["a"].run.threads == 2
    assert snapshot(settings, profiles={"p": {"max_loaded": 32}}).models["a"].run.threads == 1


def test_root_that_links_into_airlabs_own_folder_is_refused(tmp_path: Path) -> None:
    """A link must not open to tools what its target's name would not: the conversations and the audit lie there."""
    state = tmp_path / ".airlab"
    state.mkdir()
    (tmp_path / "workspace").symlink_to(state)

    with pytest.raises(ManifestProblems, match="AirLab's own"):
        policy_for(manifest(), tmp_path, state)


def test_airlabs_own_folders_are_protected_below_any_root(tmp_path: Path) -> None:
    state = tmp_path / ".airlab"
    protected = {entry.path for entry in policy_for(manifest(), tmp_path, state).protected}

    assert {PurePosixPath(state), PurePosixPath(tmp_path / "models")} <= protected


def test_unknown_tool_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ManifestProblems, match=r"(?s)there is no tool 'rm_rf'.*allowed: .*read_file"):
        policy_for(manifest(tools={"builtin": ["rm_rf"]}), tmp_path, tmp_path / ".airlab")
