"""Where the files of a model that need not be on disk come from: a hub's repository, or one plain address."""

from __future__ import annotations

from app.errors import DownloadError
from app.manifest.schema import ModelSection
from app.settings import Settings
from app.weights.hub import RemoteFile, files_on_hub
from app.weights.places import name_in_url


def source_of(section: ModelSection) -> str | None:
    """The repository or the address that the manifest names; None where it names none."""
    return section.hf_repo or section.download_url


def files_of(section: ModelSection, settings: Settings) -> tuple[RemoteFile, ...]:
    """The files of a model with a source, in order, then those beside it. Blocks, 10 seconds at most: for a thread.

    Raises:
        DownloadError: The hub cannot be asked or holds no such model, or the address names no file.
    """
    if section.hf_repo:
        return files_on_hub(section.hf_repo, settings, section.companion_names)
    url = section.download_url or ""
    name = section.filename or name_in_url(url)
    if name is None:
        raise DownloadError(f"{url} does not end in the name of a .gguf file; give the model a filename")
    if settings.hf_hub_offline:
        raise DownloadError("HF_HUB_OFFLINE is set, so nothing is downloaded; unset it")
    return (RemoteFile(name.rpartition("/")[2], url, sha256=section.sha256),)
