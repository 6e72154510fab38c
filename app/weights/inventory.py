"""What lies in ``models/``, named by the manifest or dropped into the folder for fine-tunes, and what its headers say.

Knows no models: what becomes of a file is decided in ``fleet/``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from app.engines.base import WeightsId
from app.errors import AirLabError
from app.manifest.load import read_sidecar
from app.manifest.schema import ModelSection
from app.weights.gguf import GgufFacts, read_header
from app.weights.places import downloaded
from app.weights.quants import parts_of

MAX_ENTRIES = 1000
"""So many entries of the folder for fine-tunes are looked at."""
_MAX_NAME_CHARS, _MAX_PROBLEM_CHARS = 255, 4000
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
"""What a model in several files is loaded by is the first of them; llama-server finds the others."""
_UNREAD = "it has not been looked into yet; try again in a moment"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file that is there."""

    id: WeightsId
    facts: GgufFacts | None = None
    """What its header says; None where it is broken, or was not read yet."""
    problem: str | None = None
    """What is wrong with it, and what to do."""
    later_parts_bytes: int = 0
    """The other files of a model that lies in several, as far as they are there."""

    @property
    def all_bytes(self) -> int:
        """All files of the model."""
        return self.id.size_bytes + self.later_parts_bytes


@dataclass(frozen=True, slots=True)
class DroppedFile:
    """A file in the folder for fine-tunes that no model of the manifest names."""

    name: str
    """As a manifest would name it: below models/."""
    sidecar: ModelSection | None
    """What the YAML beside it says, where there is one."""
    problem: str | None
    """Why it cannot be used, whatever its header says."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What lies in ``models/`` at one moment."""

    files: Mapping[str, WeightsFile] = field(default_factory=dict)
    """By name below models/; a file that is not there is not in it."""
    dropped: tuple[DroppedFile, ...] = ()
    """By name; their files are in ``files``, too."""
    problem: str | None = None
    """What is wrong with the folder for fine-tunes."""
    downloaded: Mapping[str, WeightsFile] = field(default_factory=dict)
    """By hf_repo or download_url: what was downloaded without a name in the manifest, or lies in a cache of the hub."""
    seen: tuple[WeightsId, ...] = ()
    """All that was looked at, sidecars too: differs when any of it changed."""

    def file_of(self, model: ModelSection) -> WeightsFile | None:
        """A model's file, where it is there: by its name, else where a download or a cache has put it."""
        named = self.files.get(model.filename or "")
        return named or self.downloaded.get(model.hf_repo or model.download_url or "")


@dataclass(frozen=True, slots=True)
class _Read(Generic[_T]):
    """What came of reading a file."""

    value: _T | None
    problem: str | None


class HeaderCache:
    """What files said when they were last read, by path, size and time. Belongs to whoever takes inventories."""

    _MOST = 4096

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[tuple[object, WeightsId], _Read[Any]] = {}

    def read(self, how: Callable[[Path], _T], file: WeightsId, *, may_read: bool) -> _Read[_T] | None:
        """What ``how`` makes of this file, now or before; None where it was not read before and may not be now."""
        read: _Read[_T] | None = self._known.get((how, file))
        if read is not None or not may_read:
            return read
        try:
            read = _Read(how(file.path), None)
        except AirLabError as exc:
            read = _Read(None, exc.message[:_MAX_PROBLEM_CHARS])
        if len(self._known) >= self._MOST:  # a bound; to read them anew takes milliseconds each
            self._known.clear()
        self._known[how, file] = read
        return read


def take_inventory(
    models_dir: Path,
    names: Iterable[str],
    *,
    finetuned_dir: Path | None = None,
    remote: Iterable[ModelSection] = (),
    caches: Iterable[Path] = (),
    headers: HeaderCache | None = None,
    read_headers: bool = True,
) -> Inventory:
    """Look for the files that the manifest names, and for what was dropped. Never raises for what lies there.

    Args:
        models_dir: Where ``names`` begin.
        names: Of all files in the manifest; what is no regular file counts as missing.
        finetuned_dir: The folder below ``models_dir`` whose files count without being named.
        remote: Models that can be downloaded; those without a file of their name are looked for elsewhere.
        caches: Folders of other programs, where models of the hub may lie.
        headers: What is known from before, for the same caller.
        read_headers: False for one ``stat`` each: files that are not in ``headers`` have no facts then.
    """
    taking = _Taking(models_dir, headers or HeaderCache(), read_headers=read_headers)
    for name in dict.fromkeys(names):
        taking.look_at(name)
    declared = set(taking.files)
    dropped = tuple(taking.dropped(finetuned_dir, declared)) if finetuned_dir is not None else ()
    for model in remote:
        taking.look_for(model, caches)
    return Inventory(taking.files, dropped, taking.problem, taking.downloaded, tuple(taking.seen))


class _Taking:
    """One inventory in the making."""

    def __init__(self, models_dir: Path, headers: HeaderCache, *, read_headers: bool) -> None:
        self.files: dict[str, WeightsFile] = {}
        self.downloaded: dict[str, WeightsFile] = {}
        self.problem: str | None = None
        self.seen: list[WeightsId] = []
        self._models_dir, self._headers, self._may_read = models_dir, headers, read_headers
        self._real_dir = os.path.realpath(models_dir)

    def look_at(self, name: str) -> None:
        found = self._weights(self._models_dir / name)
        if found is not None:
            self.files[name] = found

    def look_for(self, model: ModelSection, caches: Iterable[Path]) -> None:
        """Find what was downloaded, unless the file that the manifest names is there."""
        source = model.hf_repo or model.download_url
        if source is None or model.filename in self.files or source in self.downloaded:
            return
        path = downloaded(model, self._models_dir, caches)
        found = self._weights(path) if path is not None else None
        if found is not None:
            self.downloaded[source] = found

    def _weights(self, path: Path) -> WeightsFile | None:
        """A whole model; one in several files is there when all of them are."""
        others = [path.with_name(part) for part in parts_of(path.name) if part != path.name]
        file, parts = self._regular_file(path), list(map(self._regular_file, others))
        if file is None or not all(parts):
            return None
        read = self._headers.read(read_header, file, may_read=self._may_read) or _Read(None, None)
        return WeightsFile(file, read.value, read.problem, sum(part.size_bytes for part in parts if part))

    def dropped(self, folder: Path, declared: set[str]) -> Iterator[DroppedFile]:
        for path in self._gguf_files(folder):
            name = path.relative_to(self._models_dir).as_posix()
            if name in declared:
                continue
            if not self._is_inside(path):
                yield DroppedFile(name, None, "it is a link that leads out of models/; put the file itself there")
                continue
            self.look_at(name)
            if name in self.files:
                yield self._described(name, path.with_suffix(".yaml"))

    def _described(self, name: str, sidecar: Path) -> DroppedFile:
        file = self._regular_file(sidecar)
        if file is not None and not self._is_inside(sidecar):
            return DroppedFile(name, None, f"{sidecar.name} is a link that leads out of models/; put the file there")
        read = self._headers.read(read_sidecar, file, may_read=self._may_read) if file else _Read(None, None)
        if read is None or (self.files[name].facts is None and self.files[name].problem is None):
            return DroppedFile(name, None, _UNREAD)
        for other in read.value.file_names if read.value else ():
            if other not in self.files:
                self.look_at(other)
        return DroppedFile(name, read.value, read.problem)

    def _gguf_files(self, folder: Path) -> list[Path]:
        """Whole files by the look of their names, in order."""
        if not folder.is_dir():
            return []
        if not self._is_inside(folder):
            self.problem = f"{folder.name}/ is a link that leads out of models/, so nothing in it is looked at"
            return []
        try:
            with os.scandir(folder) as entries:
                found = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
        except OSError as exc:
            self.problem = f"{folder.name}/ cannot be read: {exc.strerror}"
            return []
        if len(found) > MAX_ENTRIES:
            self.problem = f"{folder.name}/ has more than {MAX_ENTRIES} entries, and the others are not looked at"
        return [folder / name for name in sorted(found[:MAX_ENTRIES]) if _is_dropped_model(name)]

    def _regular_file(self, path: Path) -> WeightsId | None:
        try:
            info = path.stat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(info.st_mode):
            return None
        self.seen.append(WeightsId(path, info.st_size, info.st_mtime_ns))
        return self.seen[-1]

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._real_dir)


def _is_dropped_model(name: str) -> bool:
    """Half a file has another ending while it is copied or downloaded; what cannot be printed is no name of a model."""
    is_name = name.isprintable() and not name.startswith(".") and "\\" not in name and len(name) <= _MAX_NAME_CHARS
    return is_name and name.endswith(".gguf") and not _LATER_PART.search(name)
