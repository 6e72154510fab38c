"""Downloads with the real hub library and a real HTTP server: resumed, verified, refused, cancelled."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.errors import DownloadError, DownloadNotFoundError, StorageFullError
from app.journal import Fact, Journal
from app.manifest.schema import ModelSection
from app.settings import Settings
from app.weights.downloads import Downloads
from app.weights.jobs import DownloadFinished, DownloadProgressed, Job
from app.weights.transfer import Patience
from tests.support.gguf import minimal_gguf
from tests.support.hub import Hub, running_hub

WEIGHTS = minimal_gguf(general__name="Q") + os.urandom(300_000)
SMALLER = minimal_gguf(general__name="S") + os.urandom(1000)
REPO = "org/model-GGUF"
SECTION = ModelSection(hf_repo=f"{REPO}:Q4_K_M")
QUICK = Patience(pauses_s=(0.0, 0.0, 0.0), connect_s=5, silence_s=10)
BOUND_S = 20.0


@pytest.fixture(autouse=True)
def _no_hub_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a token nor a proxy of whoever runs the tests."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("HF_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        running.repos[REPO] = {"README.md": b"# words", "model-Q4_K_M.gguf": WEIGHTS, "model-Q8_0.gguf": SMALLER}
        yield running


class House:
    """Downloads of one folder, and what they noted."""

    def __init__(self, folder: Path, hub: Hub, **more: Any) -> None:
        self.models = folder / "models"
        self.models.mkdir(exist_ok=True)
        (folder / "airlab.yaml").touch()
        settings = Settings(manifest=folder / "airlab.yaml", hf_endpoint=hub.url, **more)
        self.facts: list[Fact] = []
        journal = Journal()
        journal.subscribe(self.facts.append)
        self.arrivals = 0
        self.downloads = Downloads(settings, journal, self._arrived, patience=QUICK, reserve_bytes=0)

    async def _arrived(self) -> None:
        self.arrivals += 1

    async def pull(self, section: ModelSection = SECTION, key: str = "m") -> Job:
        job = self.downloads.start(key, section)
        async with asyncio.timeout(BOUND_S):
            await self.downloads.finished(job)
        return job

    async def refused(self, section: ModelSection = SECTION) -> str:
        with pytest.raises(DownloadError) as caught:
            await self.pull(section)
        assert not [path for path in self.models.rglob("*.gguf") if path.is_file()]
        return caught.value.message

    @property
    def parts(self) -> list[Path]:
        return sorted(self.models.rglob(".*.part"))


MakeHouse = Callable[..., House]


@pytest.fixture
async def make_house(tmp_path: Path, hub: Hub) -> AsyncIterator[MakeHouse]:
    made: list[House] = []

    def make(folder: Path = tmp_path, **more: Any) -> House:
        made.append(House(folder, hub, **more))
        return made[-1]

    yield make
    hub.released.set()
    for house in made:
        await house.downloads.close()


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    return make_house()


async def test_projector_and_draft_model_come_out_of_the_models_repository(house: House, hub: Hub) -> None:
    """Where the manifest says, by the name that the repository has for them; what it has not is for somebody else."""
    hub.repos[REPO] |= {"eyes/mmproj-F16.gguf": SMALLER, "mmproj-F32.gguf": WEIGHTS, "draft.gguf": SMALLER}
    companions = {
        "mmproj": "model/mmproj-F16.gguf",
        "draft_model": "nosuch.gguf",
        "on": {"gpu": {"draft_model": "draft.gguf"}},
    }
    job = await house.pull(ModelSection.model_validate({"hf_repo": f"{REPO}:Q4_K_M", **companions}))

    assert (house.models / "model/mmproj-F16.gguf").read_bytes() == SMALLER
    assert (house.models / "draft.gguf").read_bytes() == SMALLER
    names = {path.relative_to(house.models).as_posix() for path, _ in job.files}
    assert names == {f"{REPO}/model-Q4_K_M.gguf", "model/mmproj-F16.gguf", "draft.gguf"}


async def test_projector_is_fetched_for_a_model_that_is_there(house: House, hub: Hub) -> None:
    await house.pull()
    hub.repos[REPO] |= {"mmproj-F16.gguf": SMALLER}
    asked = len(hub.asked)
    await house.pull(ModelSection(hf_repo=f"{REPO}:Q4_K_M", mmproj="mmproj-F16.gguf"))

    assert (house.models / "mmproj-F16.gguf").is_file()
    assert not [each.path for each in hub.asked[asked:] if "Q4_K_M" in each.path]


async def in_time(what: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(BOUND_S):
        return await what()


async def test_model_of_the_hub_comes_whole_into_a_folder_of_its_repository(house: House, hub: Hub) -> None:
    job = await house.pull()

    file = house.models / "org" / "model-GGUF" / "model-Q4_K_M.gguf"
    assert file.read_bytes() == WEIGHTS
    assert (job.state, job.done_bytes, job.total_bytes) == ("done", len(WEIGHTS), len(WEIGHTS))
    assert house.arrivals == 1
    assert not house.parts
    assert [fact for fact in house.facts if isinstance(fact, DownloadFinished)]
    assert any(isinstance(fact, DownloadProgressed) for fact in house.facts) or job.total_bytes
    assert len(hub.asked) == 2, "one question for the list, one for the file: nothing else is told to the hub"
    assert all("authorization" not in one.headers for one in hub.asked)


async def test_what_is_there_is_not_downloaded_again(house: House, hub: Hub) -> None:
    await house.pull()
    await house.pull()
    assert len(hub.files_asked) == 1


async def test_file_that_is_there_is_never_replaced_and_half_a_one_is(house: House, hub: Hub) -> None:
    """It may be somebody's own; what cannot be used is nobody's loss."""
    section = ModelSection(hf_repo=f"{REPO}:Q4_K_M", filename="mine.gguf")
    (house.models / "mine.gguf").write_bytes(SMALLER)
    await house.pull(section)
    assert (house.models / "mine.gguf").read_bytes() == SMALLER
    (house.models / "mine.gguf").write_bytes(WEIGHTS[:10])
    await house.pull(section)
    assert (house.models / "mine.gguf").read_bytes() == WEIGHTS


async def test_model_in_several_files_comes_whole_and_under_their_names(house: House, hub: Hub) -> None:
    hub.repos[REPO] = {f"big/m-Q4_K_M-0000{n}-of-00002.gguf": minimal_gguf() + bytes([n]) * 500 for n in (1, 2)}
    await house.pull()
    found = sorted(path.name for path in (house.models / "org" / "model-GGUF" / "big").iterdir())
    assert found == ["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"]


async def test_broken_connections_are_taken_up_where_they_broke(house: House, hub: Hub) -> None:
    hub.cut_after = [100_000, 0, 70_000]
    await house.pull()

    assert [one.range for one in hub.files_asked] == [None, "bytes=100000-", "bytes=100000-", "bytes=170000-"]
    assert (house.models / "org/model-GGUF/model-Q4_K_M.gguf").read_bytes() == WEIGHTS


async def test_connection_that_only_breaks_is_given_up_and_what_came_is_kept(house: House, hub: Hub) -> None:
    hub.cut_after = [50_000, 0, 0, 0, 0, 0]
    message = await house.refused()
    assert "what came is kept" in message
    assert [part.stat().st_size for part in house.parts] == [50_000]


async def test_restart_goes_on_at_the_byte_where_the_last_one_ended(make_house: MakeHouse, hub: Hub) -> None:
    """The partial file is all that is remembered."""
    first = make_house()
    hub.hold_after = 123_456
    job = first.downloads.start("m", SECTION)
    await asyncio.to_thread(hub.held.wait, BOUND_S)
    await until(lambda: job.done_bytes == 123_456)
    await in_time(first.downloads.close)
    assert job.state == "cancelled"

    hub.hold_after = None
    hub.released.set()
    await make_house().pull()
    assert hub.files_asked[-1].range == "bytes=123456-"
    assert (first.models / "org/model-GGUF/model-Q4_K_M.gguf").read_bytes() == WEIGHTS


async def test_cancelled_job_ends_for_all_who_wait_and_can_be_taken_up(house: House, hub: Hub) -> None:
    hub.hold_after = 1000
    job = house.downloads.start("m", SECTION)
    waiting = [asyncio.create_task(house.downloads.finished(job)) for _ in range(2)]
    await asyncio.to_thread(hub.held.wait, BOUND_S)
    await until(lambda: job.done_bytes == 1000)

    assert house.downloads.cancel("m").state == "cancelled"
    for waiter in waiting:
        with pytest.raises(DownloadError, match="was cancelled"):
            await waiter
    with pytest.raises(DownloadNotFoundError):
        house.downloads.cancel("m")
    hub.hold_after = None
    hub.released.set()
    await house.pull()
    assert hub.files_asked[-1].range == "bytes=1000-"


async def test_two_who_ask_for_one_source_share_one_job(house: House, hub: Hub) -> None:
    first, second = house.downloads.start("a", SECTION), house.downloads.start("b", SECTION)
    assert first is second
    await in_time(lambda: house.downloads.finished(first))
    assert house.downloads.of("a") is house.downloads.of("b")
    assert len(hub.files_asked) == 1


async def test_two_sources_never_write_one_file(house: House, hub: Hub) -> None:
    hub.hold_after = 1000
    hub.plain["/other.gguf"] = SMALLER
    section = ModelSection(hf_repo=f"{REPO}:Q4_K_M", filename="same.gguf")
    job = house.downloads.start("a", section)
    await asyncio.to_thread(hub.held.wait, BOUND_S)
    other = house.downloads.start("b", ModelSection(download_url=f"{hub.url}/other.gguf", filename="same.gguf"))
    with pytest.raises(DownloadError, match=r"writes same\.gguf already"):
        await in_time(lambda: house.downloads.finished(other))
    hub.released.set()
    await in_time(lambda: house.downloads.finished(job))
    assert (house.models / "same.gguf").read_bytes() == WEIGHTS


async def test_wrong_checksum_is_thrown_away(house: House, hub: Hub) -> None:
    hub.lie_about_hash = True
    assert "SHA-256" in await house.refused()
    assert not house.parts


async def test_what_is_no_gguf_is_thrown_away(house: House, hub: Hub) -> None:
    hub.plain["/page.gguf"] = b"<html>please log in</html>"
    with pytest.raises(Exception, match=r"GGUF"):
        await house.pull(ModelSection(download_url=f"{hub.url}/page.gguf"))
    assert not list(house.models.iterdir())


async def test_unknown_quantisation_is_answered_with_those_there_are(house: House) -> None:
    message = await house.refused(ModelSection(hf_repo=f"{REPO}:Q6_K"))
    assert "Q4_K_M" in message
    assert "Q8_0" in message


async def test_repository_that_is_not_there_is_named(house: House) -> None:
    assert "has no org/nowhere" in await house.refused(ModelSection(hf_repo="org/nowhere"))


async def test_gated_repository_says_where_its_terms_are(house: House, hub: Hub) -> None:
    hub.gated.add(REPO)
    message = await house.refused()
    assert f"{hub.url}/{REPO}" in message
    assert "HF_TOKEN" in message


async def test_private_repository_is_read_with_the_token_of_the_environment(make_house: MakeHouse, hub: Hub) -> None:
    hub.token = "hf_secret"
    assert "HF_TOKEN" in await make_house().refused()
    await make_house(hf_token="hf_secret").pull()


async def test_hub_that_is_not_there_is_named(make_house: MakeHouse, hub: Hub) -> None:
    nowhere = make_house()
    closed = Settings(manifest=nowhere.models.parent / "airlab.yaml", hf_endpoint="http://127.0.0.1:9")
    nowhere.downloads._settings = closed
    assert "http://127.0.0.1:9 could not be asked" in await nowhere.refused()


async def test_offline_asks_nobody(make_house: MakeHouse, hub: Hub) -> None:
    assert "HF_HUB_OFFLINE" in await make_house(hf_hub_offline=True).refused()
    assert not hub.asked


async def test_plain_url_is_resumed_by_its_etag(house: House, hub: Hub) -> None:
    hub.plain["/files/m.gguf"] = WEIGHTS
    hub.cut_after = [100_000]
    await house.pull(ModelSection(download_url=f"{hub.url}/files/m.gguf"))
    assert [one.range for one in hub.files_asked] == [None, "bytes=100000-"]
    assert (house.models / "m.gguf").read_bytes() == WEIGHTS


async def test_file_that_changed_on_the_server_meanwhile_begins_anew(house: House, hub: Hub) -> None:
    """Two halves of two files would make none."""
    hub.plain["/m.gguf"] = WEIGHTS
    hub.cut_after = [100_000, 0, 0, 0]
    section = ModelSection(download_url=f"{hub.url}/m.gguf")
    await house.refused(section)
    hub.cut_after = []
    hub.plain["/m.gguf"] = changed = minimal_gguf(general__name="new") + os.urandom(200_000)
    await house.pull(section)
    assert (house.models / "m.gguf").read_bytes() == changed
    assert not house.parts


@pytest.mark.parametrize("broken", ["ranges", "etags"])
async def test_server_that_cannot_resume_is_asked_for_all_of_it(house: House, hub: Hub, broken: str) -> None:
    setattr(hub, broken, False)
    hub.plain["/m.gguf"] = WEIGHTS
    hub.cut_after = [100_000]
    await house.pull(ModelSection(download_url=f"{hub.url}/m.gguf"))
    assert (house.models / "m.gguf").read_bytes() == WEIGHTS
    assert not house.parts


async def test_checksum_of_the_manifest_or_beside_the_file_binds(house: House, hub: Hub) -> None:
    hub.plain["/m.gguf"] = WEIGHTS
    section = ModelSection(download_url=f"{hub.url}/m.gguf", sha256="1" * 64)
    assert "SHA-256" in await house.refused(section)
    hub.plain["/m.gguf.sha256"] = f"{'2' * 64}  m.gguf\n".encode()
    assert "SHA-256" in await house.refused(ModelSection(download_url=f"{hub.url}/m.gguf"))
    hub.plain["/m.gguf.sha256"] = hashlib.sha256(WEIGHTS).hexdigest().encode()
    await house.pull(ModelSection(download_url=f"{hub.url}/m.gguf"))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_refusal_of_the_server_is_told_and_not_repeated(house: House, hub: Hub, status: int) -> None:
    hub.plain["/m.gguf"] = WEIGHTS
    hub.statuses = [status] * 5
    assert str(status) in await house.refused(ModelSection(download_url=f"{hub.url}/m.gguf"))
    assert len(hub.files_asked) == 1


@pytest.mark.parametrize("retry_after", [None, "0", "soon", "-1", "\xb2"])
async def test_server_that_is_busy_is_asked_again(house: House, hub: Hub, retry_after: str | None) -> None:
    """Whatever it says of when: ² is a digit to Python, and no number."""
    hub.statuses, hub.retry_after = [503, 429], retry_after
    await house.pull()
    assert len(hub.files_asked) == 3


async def test_redirect_into_this_network_is_not_followed_and_gets_no_token(make_house: MakeHouse, hub: Hub) -> None:
    """The owner's own address may be private; where somebody else's server points may not."""
    house = make_house(hf_token="hf_secret")
    hub.token = "hf_secret"
    with running_hub() as inner:
        hub.redirect = f"{inner.url}{{path}}"
        assert "no public address" in await house.refused()
        assert not inner.asked


async def test_redirects_end(house: House, hub: Hub) -> None:
    hub.redirect = f"{hub.url}{{path}}"
    assert "redirects more than 5 times" in await house.refused()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1:999999/"])
async def test_redirect_to_something_that_is_no_web_address_is_refused(house: House, hub: Hub, target: str) -> None:
    hub.redirect = target
    assert "redirected" in await house.refused()


async def test_unencrypted_address_outside_of_this_network_is_refused(house: House) -> None:
    message = await house.refused(ModelSection(download_url="http://8.8.8.8/m.gguf"))
    assert "use https://" in message


async def test_hub_cannot_name_a_file_outside_of_models(house: House, hub: Hub) -> None:
    hub.repos[REPO] = {"../../evil-Q4_K_M.gguf": WEIGHTS}
    assert "which is no name that AirLab writes to" in await house.refused()


@contextmanager
def small_disk(tmp_path: Path, size: str) -> Iterator[Path]:
    """A folder whose models/ is a file system of this size."""
    (tmp_path / "small" / "models").mkdir(parents=True)
    disk = tmp_path / "small" / "models"
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    may = os.geteuid() == 0 and shutil.which("mount") is not None
    if not may or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system may not be mounted here")
    try:
        yield tmp_path / "small"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_fault_116_download_that_does_not_fit_is_refused_before_it_begins(
    make_house: MakeHouse, tmp_path: Path
) -> None:
    with small_disk(tmp_path, "128k") as folder:
        house = make_house(folder)
        with pytest.raises(StorageFullError, match="needs 29"):
            await house.pull()
        assert not [part for part in house.parts if part.stat().st_size]


async def test_fault_116_disk_that_fills_meanwhile_keeps_what_came(
    make_house: MakeHouse, tmp_path: Path, hub: Hub
) -> None:
    """Somebody else may take the room that was there at the start."""
    with small_disk(tmp_path, "512k") as folder:
        house = make_house(folder)
        hub.hold_after = 40_000
        job = house.downloads.start("m", SECTION)
        await asyncio.to_thread(hub.held.wait, BOUND_S)
        await until(lambda: job.done_bytes == 40_000)
        with (house.models / "other").open("wb") as other, pytest.raises(OSError, match="No space"):
            other.write(bytes(600_000))
        hub.hold_after = None
        hub.released.set()
        with pytest.raises(StorageFullError, match="make room"):
            await in_time(lambda: house.downloads.finished(job))
        (house.models / "other").unlink()
        await house.pull()
        assert (house.models / "org/model-GGUF/model-Q4_K_M.gguf").read_bytes() == WEIGHTS
        await in_time(house.downloads.close)


async def until(true: Callable[[], bool]) -> None:
    """Wait until it holds: progress is written by a thread, and there is nothing to wait for it on."""
    async with asyncio.timeout(BOUND_S):
        while not true():  # noqa: ASYNC110 # a thread writes it
            await asyncio.sleep(0.005)


def test_nothing_of_the_hub_is_imported_before_it_is_needed() -> None:
    """Its library takes 150 ms and 20 MiB, and most starts download nothing."""
    program = "import sys, app.asgi; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "app.weights.downloads" in loaded
    assert "huggingface_hub" not in loaded
    assert "tqdm" not in loaded
