"""A hub that means harm: its list of files is bounded, leads nowhere else, and no token travels in the clear."""

from __future__ import annotations

import socket
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from app.errors import DownloadError
from app.settings import Settings
from app.weights.hub import files_on_hub
from tests.support import hub as stand_in
from tests.support.gguf import minimal_gguf
from tests.support.hub import Hub, running_hub

REPO = "org/model-GGUF"


@pytest.fixture
def hub(own_hub: Hub) -> Hub:
    own_hub.repos[REPO] = {"model-Q4_K_M.gguf": minimal_gguf()}
    return own_hub


def settings(tmp_path: Path, endpoint: str, **more: Any) -> Settings:
    return Settings(manifest=tmp_path / "airlab.yaml", hf_endpoint=endpoint, **more)


def refused(tmp_path: Path, endpoint: str, **more: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        files_on_hub(REPO, settings(tmp_path, endpoint, **more))
    return caught.value.message


@pytest.mark.parametrize("token", [None, "hf_secret"])
def test_hub_that_is_not_encrypted_and_not_in_this_network_is_not_asked(
    tmp_path: Path, own_hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    """Whoever sits between would read the token, or name other files than there are."""
    dialled: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda address, *_, **__: dialled.append(address))
    message = refused(tmp_path, "http://8.8.8.8", hf_token=token)

    assert message == "http://8.8.8.8 is not encrypted, and its server is not in this network; use https://"
    assert not dialled


def test_hub_in_this_network_is_asked_with_the_token(tmp_path: Path, hub: Hub) -> None:
    hub.token = "hf_secret"
    assert files_on_hub(REPO, settings(tmp_path, hub.url, hf_token="hf_secret"))


def test_list_without_end_is_given_up(tmp_path: Path, hub: Hub) -> None:
    hub.repos[REPO] = {f"{number:0200d}": b"" for number in range(20_000)}
    assert "its answer is longer than 4 MiB" in refused(tmp_path, hub.url)


def test_list_that_comes_too_slowly_is_given_up(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    class OverAtOnce(threading.Timer):
        def start(self) -> None:
            self.function()

    monkeypatch.setattr(threading, "Timer", OverAtOnce)
    assert "its answer does not end" in refused(tmp_path, hub.url)


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nx-slow: ", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n["]
)
def test_answer_that_stops_anywhere_is_cut_off_in_time(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """A byte now and then, before the body as well, would hold one of few threads for days, and AirLab's end up."""
    cut_off = threading.Event()

    def slow(self: Any, repo: str) -> None:
        self.wfile.write(sent)
        self.close_connection = True
        hub.held.set()
        self.rfile.read(1)
        cut_off.set()

    class OnceItWaits(threading.Timer):
        def run(self) -> None:
            hub.held.wait(stand_in.BOUND_S)
            self.function()

    monkeypatch.setattr(stand_in._Handler, "_list", slow)
    monkeypatch.setattr(threading, "Timer", OnceItWaits)
    assert "its answer does not end" in refused(tmp_path, hub.url)
    assert cut_off.wait(stand_in.BOUND_S)


def test_list_that_leads_elsewhere_is_not_followed(tmp_path: Path, hub: Hub) -> None:
    """Else a hub could make AirLab ask whatever is inside this network."""
    with running_hub() as inner:
        hub.list_redirect = f"{inner.url.replace('127.0.0.1', 'localhost')}/api/models/{REPO}"
        assert "it sends us to localhost" in refused(tmp_path, hub.url)
        assert not inner.asked


def test_repository_that_was_renamed_is_followed(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = stand_in._Handler._list

    def renamed(self: Any, repo: str) -> None:
        hub.list_redirect = f"/api/models/{REPO}" if repo == "org/old" else None
        lists(self, repo)

    monkeypatch.setattr(stand_in._Handler, "_list", renamed)
    assert files_on_hub("org/old", settings(tmp_path, hub.url))


def test_answer_that_is_compressed_against_our_word_is_refused(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand bytes of it can be a million."""

    def bomb(self: Any, repo: str) -> None:
        self._answer(200, zlib.compress(bytes(10_000_000)), {"content-encoding": "deflate"})

    monkeypatch.setattr(stand_in._Handler, "_list", bomb)
    assert "it compresses its answer" in refused(tmp_path, hub.url)


def test_names_without_end_fill_no_message(tmp_path: Path, hub: Hub) -> None:
    hub.repos[REPO] = {f"{'x' * 1_000_000}-Q4_0.gguf": b""}
    assert refused(tmp_path, hub.url) == f"{REPO} holds no whole GGUF model; name a repository with .gguf files"


@pytest.mark.parametrize("siblings", [None, [], [{"rfilename": 5}], [{"rfilename": None}], [{}], "x", 7, [[]]])
def test_list_that_is_none_is_words(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, siblings: object
) -> None:
    monkeypatch.setattr(Hub, "info", lambda *_: {"id": REPO, "sha": "a" * 40, "siblings": siblings})
    refused(tmp_path, hub.url)
