"""The manifest that was last in force, kept for a start with a broken one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from app.live.lastgood import keep_last_good, last_good_file, read_last_good
from app.manifest.load import Loaded, parse_manifest
from app.settings import Settings

TEXT = '# mine\nversion: 1\ndefault_model: a\nmodels: {a: {filename: a.gguf, description: "größer"}}\n'


def parsed(text: str) -> Loaded:
    return parse_manifest(text.encode(), name="airlab.yaml")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "state").mkdir()
    return Settings(manifest=tmp_path / "airlab.yaml", state_dir=tmp_path / "state", profile=None)


def test_what_is_kept_is_read_back_as_it_was_with_its_comments(settings: Settings) -> None:
    keep_last_good(settings, parsed(TEXT))
    kept = read_last_good(settings)
    assert kept is not None
    assert (kept.text, kept.digest, kept.manifest) == (TEXT, parsed(TEXT).digest, parsed(TEXT).manifest)


def test_byte_order_mark_is_not_kept_and_does_not_matter(settings: Settings) -> None:
    keep_last_good(settings, parsed(f"\ufeff{TEXT}"))
    kept = read_last_good(settings)
    assert kept is not None
    assert kept.manifest == parsed(TEXT).manifest


def test_only_its_owner_may_read_it(settings: Settings) -> None:
    """It says what the manifest says, whose own permissions are its owner's choice."""
    keep_last_good(settings, parsed(TEXT))
    assert stat.S_IMODE(last_good_file(settings).stat().st_mode) == 0o600


def test_newer_one_takes_the_place_of_the_older(settings: Settings) -> None:
    keep_last_good(settings, parsed(TEXT))
    keep_last_good(settings, parsed(TEXT.replace("mine", "yours")))
    kept = read_last_good(settings)
    assert kept is not None
    assert kept.text.startswith("# yours")
    assert [file.name for file in settings.state.iterdir()] == ["last_good.yaml"]


def test_before_the_first_there_is_none(settings: Settings) -> None:
    assert read_last_good(settings) is None


@pytest.mark.parametrize("content", [b"", b"version: 2\n", b"\0\xff", b"[" * 100_000])
def test_what_this_airlab_refuses_counts_as_none(settings: Settings, content: bytes) -> None:
    """An older AirLab may have kept what a newer one does not take any more; a start is not to fail for it."""
    last_good_file(settings).write_bytes(content)
    assert read_last_good(settings) is None


def test_folder_in_its_place_counts_as_none_and_cannot_be_replaced(settings: Settings) -> None:
    last_good_file(settings).mkdir()
    assert read_last_good(settings) is None
    with pytest.raises(IsADirectoryError):
        keep_last_good(settings, parsed(TEXT))
