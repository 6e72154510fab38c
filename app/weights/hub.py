"""Asks a Hugging Face hub what a repository holds: names, sizes, checksums, addresses. Downloads nothing.

``huggingface_hub`` is imported at first need: it takes 150 ms and 20 MiB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.errors import DownloadError
from app.settings import Settings
from app.weights.addresses import refuse_plain_http
from app.weights.quants import Source, choose, named_alike, no_such_model

MAX_FILE_BYTES = 2**50
"""No model's file is larger."""
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that can be downloaded."""

    name: str
    """In its repository, with its folders; the last part of its address for a plain URL."""
    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    """In hexadecimal, where it is known."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For the host of ``url`` and no other: a token may be among them."""
    beside: str | None = None
    """Of a file that goes with a model: what the manifest calls it, below models/."""


def files_on_hub(hf_repo: str, settings: Settings, beside: Sequence[str] = ()) -> tuple[RemoteFile, ...]:
    """The files of the model that ``org/repo:QUANTISATION`` names, in order. Blocks, 10 seconds at most: for a thread.

    Behind them come those of ``beside``, names of a manifest, that the repository has a file of the same name for.

    Raises:
        DownloadError: The hub cannot be asked, has no such repository, keeps it from us, or it holds no such model.
    """
    source = Source.of(hf_repo)
    if settings.hf_hub_offline:
        raise DownloadError(f"HF_HUB_OFFLINE is set, so {source.repo} is not downloaded; unset it")
    # Before the import, which reads them: no word on what else is installed here, and none on who asks.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
    from huggingface_hub import HfApi, get_token, hf_hub_url  # noqa: PLC0415 # at first need

    from app.weights.hubclient import answers_within  # noqa: PLC0415

    # Without one in the environment, the one that `hf auth login` left.
    token = settings.hf_token.get_secret_value() if settings.hf_token else get_token()
    endpoint = settings.hf_endpoint.rstrip("/") if settings.hf_endpoint else None
    api = HfApi(endpoint=endpoint, token=token, library_name="airlab")
    # Before anything is sent: in the clear, the token would be everybody's on the way.
    refuse_plain_http(api.endpoint)
    try:
        with answers_within(_ANSWER_S):
            info = api.model_info(source.repo, files_metadata=True, timeout=_ANSWER_S)
        listed = {file.rfilename: file for file in info.siblings or () if isinstance(file.rfilename, str)}
    except Exception as exc:
        # The library's own errors, those of httpx2 below it, and whatever an answer that is none makes of both.
        raise _translated(exc, source, api.endpoint) from exc
    chosen = choose(listed, source.quantisation)
    if chosen is None:
        raise no_such_model(source, listed)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return tuple(
        RemoteFile(
            name,
            hf_hub_url(source.repo, name, revision=info.sha, endpoint=endpoint),
            _size(listed[name].size),
            lfs.sha256 if (lfs := listed[name].lfs) else None,
            headers,
            companion,
        )
        for name, companion in (*((name, None) for name in chosen), *named_alike(listed, beside))
    )


def _size(said: object) -> int | None:
    """A size that a file can have, or nothing."""
    return said if type(said) is int and 0 <= said <= MAX_FILE_BYTES else None


def _translated(exc: Exception, source: Source, endpoint: str) -> DownloadError:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError  # noqa: PLC0415

    repo = source.repo
    if isinstance(exc, GatedRepoError):
        return DownloadError(
            f"{repo} is gated: accept its terms at {endpoint}/{repo}, and set HF_TOKEN to a token of that account"
        )
    if isinstance(exc, RepositoryNotFoundError):
        # The hub answers 401 for what does not exist, so that nobody learns what is private.
        return DownloadError(
            f"{endpoint} has no {repo}, or keeps it private: check hf_repo, and set HF_TOKEN if the repository is yours"
        )
    if isinstance(exc, HfHubHTTPError):
        return DownloadError(f"{endpoint} answered {exc.response.status_code} when asked for {repo}; try again later")
    reason = f"{exc or type(exc).__name__}"[:300]
    return DownloadError(f"{endpoint} could not be asked for {repo}: {reason}; check this machine's network")
