"""Where a model's files lie below ``models/``, downloaded or yet to be. Pure, but for looking into folders.

A file that the manifest names lies where it says. What comes from a hub without a name lies in ``org/repo/``, as the
hub names it, and is found there again by the same choice that was made among the hub's names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from app.errors import DownloadError
from app.manifest.schema import ModelSection
from app.weights.quants import Source, choose

_MOST_ENTRIES, _MOST_FOLDERS = 2000, 200


def name_in_url(url: str) -> str | None:
    """The file name at the end of an address; None where it is none of a GGUF file."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    is_name = name.endswith(".gguf") and name.isprintable() and not name.startswith(".") and not set(name) & {"/", "\\"}
    return name if is_name and len(name.encode()) <= 200 else None


def targets(section: ModelSection, names: tuple[str, ...]) -> tuple[PurePosixPath, ...]:
    """Where below models/ the files of these names go.

    Raises:
        DownloadError: A name leads elsewhere, or the manifest gives one file's name to a model of several.
    """
    for name in names:
        parts = name.split("/")
        if "\\" in name or not name.isprintable() or any(not part or part.startswith(".") for part in parts):
            raise DownloadError(f"the hub names a file {name!r}, which is no name that AirLab writes to")
    if section.filename is None:
        folder = PurePosixPath(Source.of(section.hf_repo).repo) if section.hf_repo else PurePosixPath()
        return tuple(folder / name for name in names)
    filename = PurePosixPath(section.filename)
    if len(names) == 1:
        return (filename,)
    first = PurePosixPath(names[0]).name
    if filename.name != first:
        raise DownloadError(
            f"this model comes in {len(names)} files, and the first must keep its name: write `filename: {first}`, or "
            "leave filename out"
        )
    return tuple(filename.parent / PurePosixPath(name).name for name in names)


def downloaded(section: ModelSection, models_dir: Path, caches: Iterable[Path]) -> Path | None:
    """The first file of a model that was downloaded without a name in the manifest, or lies in a cache of the hub.

    Only whole models count. Caches are as ``huggingface_hub`` lays them out, or as older programs of llama.cpp did.
    """
    if section.hf_repo:
        source = Source.of(section.hf_repo)
        org, name = source.repo.split("/")
        folders = [models_dir / org / name]
        for cache in caches:
            folders += _snapshots(cache / f"models--{org}--{name}")
        for folder in folders:
            chosen = choose(_names_in(folder), source.quantisation)
            if chosen is not None:
                return folder / chosen[0]
        prefix = f"{org}_{name}_"
        for cache in caches:
            flat = (entry for entry in _names_in(cache, deep=False) if entry.startswith(prefix))
            chosen = choose(flat, source.quantisation)
            if chosen is not None:
                return cache / chosen[0]
    if section.download_url and not section.filename and (name := name_in_url(section.download_url) or ""):
        return models_dir / name if (models_dir / name).is_file() else None
    return None


def _snapshots(repo: Path) -> list[Path]:
    """The revisions of a repository in the hub's cache: the one that ``main`` names first."""
    try:
        folders = sorted((repo / "snapshots").iterdir())
    except OSError:
        return []
    try:
        current = (repo / "refs" / "main").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        current = ""
    return sorted(folders, key=lambda folder: folder.name != current)


def _names_in(folder: Path, *, deep: bool = True) -> Iterator[str]:
    """The names of GGUF files below a folder that can be followed to a file; so many entries are looked at."""
    seen = 0
    for number, (root, folders, files) in enumerate(os.walk(folder)):
        if not deep or number >= _MOST_FOLDERS:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            seen += 1
            if seen > _MOST_ENTRIES:
                return
            if name.endswith(".gguf") and not name.startswith(".") and (Path(root) / name).is_file():
                yield (Path(root) / name).relative_to(folder).as_posix()
