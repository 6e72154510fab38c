"""From the bytes of ``airlab.yaml`` to a frozen manifest with a place for every key, or to all of its problems.

Reads one file once; who watches it, and what becomes of what was read, is decided elsewhere.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from app.manifest.crosscheck import cross_problems
from app.manifest.nodes import Positions, compose
from app.manifest.problems import ManifestProblems, Problem, Source
from app.manifest.schema import Manifest, ModelSection
from app.manifest.translate import translate
from app.manifest.values import Section

MAX_BYTES = 1024 * 1024
"""A manifest is written by people; more is a mistake or an attack."""

_Section = TypeVar("_Section", bound=Section)


@dataclass(frozen=True)
class Loaded:
    """A manifest that may be used, and what it was read from."""

    manifest: Manifest
    positions: Positions
    digest: str
    """SHA-256 of the bytes, in hexadecimal."""
    text: str
    """What the file says, without a byte order mark; offsets in ``positions`` count its characters."""


def read_manifest(file: Path) -> Loaded:
    """Read and check a manifest file.

    Raises:
        ManifestProblems: It is no readable regular file of at most 1 MiB, or something in it is wrong.
    """
    return parse_manifest(read_bytes(file), name=str(file))


def parse_manifest(data: bytes, *, name: str) -> Loaded:
    """Check a manifest's bytes; ``name`` is what messages call the file.

    Raises:
        ManifestProblems: Something is wrong; every problem is named, each with its line.
    """
    section, positions, problems = _check(data, name, Manifest)
    problems += cross_problems(section, positions)
    if problems:
        raise ManifestProblems(problems, positions.source)
    return Loaded(section, positions, hashlib.sha256(data).hexdigest(), positions.source.text)


def read_sidecar(file: Path) -> ModelSection:
    """Read what the YAML beside a model file says of it: the keys of a model in the manifest, but for its files.

    Raises:
        ManifestProblems: As ``read_manifest`` does.
    """
    # Shown to whoever may list models: not where on this machine they lie.
    section, positions, problems = _check(read_bytes(file), f"{file.parent.name}/{file.name}", ModelSection)
    for key in section.model_fields_set & {"filename", "adapters"}:
        message = "may not stand in a file beside a model: it describes that one"
        problems.append(positions.problem((key,), message, at_key=True, fix="delete the line"))
    if problems:
        raise ManifestProblems(problems, positions.source)
    return section


def _check(data: bytes, name: str, model: type[_Section]) -> tuple[_Section, Positions, list[Problem]]:
    """The bytes as this section, and what else is wrong with them. Raises ManifestProblems."""
    if len(data) > MAX_BYTES:
        raise unreadable(name, f"is larger than {MAX_BYTES // 1024} KiB", "is this the right file?")
    source = _decode(data, name)
    root, problems = compose(source)
    if root is None:
        raise ManifestProblems(problems, source)
    positions = Positions(source, root)
    try:
        return model.model_validate(root.value), positions, problems
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        raise ManifestProblems([*problems, *translate(errors, positions, model)], source) from exc


def _decode(data: bytes, name: str) -> Source:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        source = Source(name, data.decode("utf-16", "replace"))
        raise ManifestProblems([Problem((), 1, 1, "this is UTF-16", "UTF-8", "save the file as UTF-8")], source)
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return Source(name, data.decode())
    except UnicodeDecodeError as exc:
        source = Source(name, data.decode(errors="replace"))
        offset = len(data[: exc.start].decode())
        line, column, _ = source.place(offset, offset + 1)
        message = f"the byte 0x{data[exc.start]:02x} is no UTF-8"
        problem = Problem((), line, column, message, "UTF-8", "save the file as UTF-8")
        raise ManifestProblems([problem], source) from exc


def read_bytes(file: Path) -> bytes:
    """The file's bytes, one more than allowed at most. Raises ManifestProblems as ``read_manifest`` does."""
    try:
        with open(file, "rb", opener=_open_at_once) as opened:  # Path.open takes no opener
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise unreadable(str(file), "is not a regular file", "name a file such as airlab.yaml")
            return opened.read(MAX_BYTES + 1)
    except FileNotFoundError as exc:
        fix = "create it, or name another with AIRLAB_MANIFEST"
        raise unreadable(str(file), "does not exist", fix) from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise unreadable(str(file), f"cannot be read: {reason}", "check its path and permissions") from exc


def _open_at_once(path: str, flags: int) -> int:
    # Otherwise opening a FIFO waits until somebody writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def unreadable(name: str, message: str, fix: str) -> ManifestProblems:
    """The refusal of a file that has no text to show."""
    return ManifestProblems([Problem((), 1, 1, message, fix=fix)], Source(name, ""))
