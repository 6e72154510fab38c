"""Which files of a repository are the model that ``org/repo:QUANTISATION`` names. Pure.

The same choice is made among the names that a hub lists and among those that lie on disk, so that what was downloaded
is found again without asking anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.errors import DownloadError

_PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
_NO_MODEL = re.compile(r"(^|[/._-])(mmproj|imatrix)([._-]|$)", re.IGNORECASE)
_QUANTISATION = re.compile(r"(?:UD-)?(?:I?Q\d(?:_[0-9A-Z]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|B?F16|F32)", re.IGNORECASE)
_PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0")
"""Taken, in this order, where no quantisation is asked for; llama.cpp begins with the same."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Source:
    """What ``hf_repo`` says: a repository, and which of its quantisations."""

    repo: str
    quantisation: str | None

    @classmethod
    def of(cls, hf_repo: str) -> Source:
        """Read ``org/repo`` or ``org/repo:Q4_K_M``."""
        repo, _, quantisation = hf_repo.partition(":")
        return cls(repo, quantisation or None)


def parts_of(name: str) -> tuple[str, ...]:
    """Every file of a model, given the first: itself, or all of its parts in order."""
    match = _PART.match(name)
    count = int(match["count"]) if match is not None else 0
    if match is None or not count:  # a name may say anything
        return (name,)
    return tuple(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))


def whole_models(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The models among these names, each as its files in order; one with a part missing is left out."""
    there = {name for name in names if name.endswith(".gguf") and not _NO_MODEL.search(name)}
    firsts = (name for name in sorted(there) if (match := _PART.match(name)) is None or int(match["number"]) == 1)
    return [files for files in map(parts_of, firsts) if there.issuperset(files)]


def choose(names: Iterable[str], quantisation: str | None) -> tuple[str, ...] | None:
    """The files of the model that is meant, in order; None where there is none.

    Where several fit, the one with the shortest name: ``model-Q4_K_M.gguf`` before ``model-UD-Q4_K_M.gguf``.
    """
    models = sorted(whole_models(names), key=lambda files: (len(files[0]), files[0]))
    for wanted in (quantisation,) if quantisation else _PREFERRED:
        for files in models:
            if _is_of(files[0], wanted):
                return files
    return None if quantisation or not models else models[0]


def named_alike(names: Iterable[str], wanted: Iterable[str]) -> list[tuple[str, str]]:
    """Of these names, the one for each that is wanted, whatever the folders; what has none is left out."""
    listed = sorted(names, key=lambda name: (len(name), name))
    found = ((next((name for name in listed if _base(name) == _base(each)), None), each) for each in wanted)
    return [(name, each) for name, each in found if name is not None]


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def no_such_model(source: Source, names: Iterable[str]) -> DownloadError:
    """The sentence for a repository that does not hold what is meant, with what it does hold."""
    models = whole_models(names)
    if not models:
        return DownloadError(f"{source.repo} holds no whole GGUF model; name a repository with .gguf files")
    found = sorted({match[0] for files in models if (match := _last_quantisation(files[0])) is not None})
    listed = ", ".join(found[:_SHOWN]) or ", ".join(files[0] for files in models[:_SHOWN])
    return DownloadError(
        f"{source.repo} holds no {source.quantisation}, but {listed}. Write one of them behind the colon of hf_repo"
    )


def _is_of(name: str, quantisation: str) -> bool:
    # No underscore behind it: Q4_K is not Q4_K_M.
    return re.search(rf"(^|[/._-]){re.escape(quantisation)}([/.-]|$)", name, re.IGNORECASE) is not None


def _last_quantisation(name: str) -> re.Match[str] | None:
    last = None
    for last in _QUANTISATION.finditer(name):  # noqa: B007 # the last one is what is wanted
        pass
    return last
