"""Every kind of mistake, and AirLab's answer to it word for word: ``broken/NAME.yaml`` and beside it ``NAME.txt``.

``python -m tests.manifest.test_broken --write`` writes the answers anew; read each one that changes as its user would.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.devices.probe import Host
from app.errors import AirLabError
from app.live.inputs import first_snapshot
from app.manifest.load import parse_manifest, read_sidecar
from app.settings import Settings

BROKEN = Path(__file__).with_name("broken")
HOME = Path("/lab")
"""Nothing is there: what AirLab answers here depends on the file alone."""


def files() -> list[Path]:
    """The broken files, by name."""
    return sorted(BROKEN.glob("*.yaml"))


def answer(file: Path) -> str:
    """What whoever wrote this reads: of a manifest what ``airlab check`` says, else what is said of a sidecar."""
    try:
        if file.name.startswith("sidecar-"):
            read_sidecar(file)
        else:
            loaded = parse_manifest(file.read_bytes(), name="airlab.yaml")
            first_snapshot(
                loaded, Settings(manifest=HOME / "airlab.yaml", profile=None), Host(cores=8, can_offload=True)
            )
    except AirLabError as refused:
        return f"{refused.message}\n"
    raise AssertionError(f"{file.name} is not broken")


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_broken_file_is_answered_word_for_word(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRLAB_STATE_DIR", "N_GPU_LAYERS"):
        monkeypatch.delenv(name, raising=False)
    expected = file.with_suffix(".txt")
    assert expected.is_file(), "to fix: run python -m tests.manifest.test_broken --write, and read what it wrote"
    assert answer(file) == expected.read_text()


def test_every_answer_has_its_file() -> None:
    assert {file.stem for file in BROKEN.glob("*.txt")} == {file.stem for file in files()}


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_every_answer_says_what_to_do(file: Path) -> None:
    said = file.with_suffix(".txt").read_text()
    places = said.count("airlab.yaml:") + said.count(f"{file.name}:")
    assert said.count("\n  to fix:  ") == places or "AIRLAB_PROFILE" in said


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for broken in files():
        broken.with_suffix(".txt").write_text(answer(broken))
