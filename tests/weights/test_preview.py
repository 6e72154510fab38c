"""What a model would be before it is downloaded, by the real hub library and a real HTTP server that may mean harm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import DownloadError
from app.manifest.schema import ModelSection
from app.settings import Settings
from app.units import MIB
from app.weights import preview
from app.weights.gguf import facts_in
from app.weights.preview import Preview, Previews
from tests.support import hub as stand_in
from tests.support.gguf import minimal_adapter, minimal_gguf, shaped_gguf, texts
from tests.support.hub import Hub, running_hub

REPO = "org/model-GGUF"
SECTION = ModelSection(hf_repo=f"{REPO}:Q4_K_M")
BEGINNING, SIZE_BYTES = shaped_gguf(layers=3, layer_bytes=4 * MIB)
BOUND_S = 20.0

Ask = Callable[..., Any]


@pytest.fixture
def hub(own_hub: Hub) -> Hub:
    hold(own_hub, BEGINNING, SIZE_BYTES)
    return own_hub


def hold(hub: Hub, data: bytes, size_bytes: int | None = None, name: str = "model-Q4_K_M.gguf") -> None:
    """Let the hub hold one model."""
    hub.repos[REPO] = {name: data}
    hub.claims = {} if size_bytes is None else {name: size_bytes}


def previews(tmp_path: Path, hub: Hub, **more: Any) -> Previews:
    return Previews(Settings(manifest=tmp_path / "airlab.yaml", hf_endpoint=hub.url, **more))


async def preview_of(tmp_path: Path, hub: Hub, section: ModelSection = SECTION, **more: Any) -> Preview:
    async with asyncio.timeout(BOUND_S):
        return await previews(tmp_path, hub, **more).of(section)


async def refused(tmp_path: Path, hub: Hub, section: ModelSection = SECTION, **more: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        await preview_of(tmp_path, hub, section, **more)
    return caught.value.message


async def test_header_is_read_from_the_first_bytes_and_nothing_is_written(tmp_path: Path, hub: Hub) -> None:
    found = await preview_of(tmp_path, hub)

    assert (found.size_bytes, found.note, found.problem) == (SIZE_BYTES, "", None)
    assert found.facts is not None
    assert found.facts.layout is not None
    assert found.facts.layout.layer_bytes == (4 * MIB,) * 3
    assert [one.range for one in hub.looks] == [f"bytes=0-{preview.MOST_READ_BYTES - 1}"]
    assert len(hub.asked) == 2, "one question for the list, one for the file"
    assert not list(tmp_path.glob("*"))  # noqa: ASYNC240 # a folder of this test's


async def test_model_in_several_files_is_as_large_as_all_of_them(tmp_path: Path, hub: Hub) -> None:
    first, size = shaped_gguf(split__count=2)
    names = [f"m-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]
    hub.repos[REPO] = {names[0]: first, names[1]: minimal_gguf()}
    hub.claims = {names[0]: size, names[1]: 7 * MIB}

    found = await preview_of(tmp_path, hub)

    assert found.size_bytes == size + 7 * MIB
    assert found.facts is not None
    assert found.facts.layout is not None
    assert found.facts.layout.parts == 2
    assert len(hub.looks) == 1, "what a later part says of itself is not what a model says"


@pytest.mark.parametrize("ranges", [True, False])
async def test_plain_url_says_its_size_itself_whether_it_knows_ranges_or_not(
    tmp_path: Path, hub: Hub, ranges: bool
) -> None:
    hub.ranges = ranges
    hub.plain["/files/m.gguf"], hub.claims["m.gguf"] = BEGINNING + bytes(MIB), SIZE_BYTES
    found = await preview_of(tmp_path, hub, ModelSection(download_url=f"{hub.url}/files/m.gguf"))

    assert (found.size_bytes, found.facts is not None) == (SIZE_BYTES, True)


@pytest.mark.parametrize("ranges", [True, False])
async def test_header_without_end_is_read_up_to_the_bound(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    """A server that sends on, whatever was asked of it, fills no memory; the model is judged by its size."""
    monkeypatch.setattr(preview, "MOST_READ_BYTES", MIB)
    came: list[int] = []

    def seen(name: str, beginning: bytearray, size_bytes: int) -> Any:
        came.append(len(beginning))
        return facts_in(name, beginning, size_bytes)

    monkeypatch.setattr(preview, "facts_in", seen)
    hub.ranges = ranges
    hold(hub, minimal_gguf(tokenizer__ggml__tokens=texts(["x" * 1000] * 3000)))
    found = await preview_of(tmp_path, hub)

    assert (found.facts, found.note, found.size_bytes) == (None, "it is longer than 1 MiB", hub.size("", hub_file(hub)))
    assert max(came) == MIB
    assert len(came) <= 4, "each look at the header begins at its front"


def hub_file(hub: Hub) -> bytes:
    return next(iter(hub.repos[REPO].values()))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html>" + bytes(100), "is no GGUF file"),
        (minimal_adapter(), "holds no model: it says that it is of the type 'adapter'"),
        (BEGINNING, "it is not whole"),
    ],
)
async def test_file_of_which_no_download_could_be_used_is_named_with_its_fault(
    tmp_path: Path, hub: Hub, data: bytes, words: str
) -> None:
    hold(hub, data)
    found = await preview_of(tmp_path, hub)

    assert (found.facts, found.note) == (None, "")
    assert words in (found.problem or "")


async def test_offline_asks_nobody_and_says_so(tmp_path: Path, hub: Hub) -> None:
    url = ModelSection(download_url=f"{hub.url}/m.gguf")
    for section in (SECTION, url):
        assert "HF_HUB_OFFLINE is set" in await refused(tmp_path, hub, section, hf_hub_offline=True)
    assert not hub.asked


async def test_hub_that_holds_no_such_model_is_answered_with_what_it_holds(tmp_path: Path, hub: Hub) -> None:
    assert "holds no Q8_0, but Q4_K_M" in await refused(tmp_path, hub, ModelSection(hf_repo=f"{REPO}:Q8_0"))


@pytest.mark.parametrize(
    ("faults", "note"),
    [
        ({"statuses": [503]}, "the server answered 503"),
        ({"statuses": [403]}, "accept its terms"),
        ({"cut_after": [100]}, "peer closed connection"),
        ({"hold_after": 100}, "did not come within"),
        ({"redirect": "file:///etc/passwd"}, "where AirLab does not go"),
    ],
)
async def test_header_that_does_not_come_leaves_the_size(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, faults: dict[str, Any], note: str
) -> None:
    """The sum by size alone is an answer, too."""
    hub.spare_looks = False
    for name, fault in faults.items():
        setattr(hub, name, fault)
    if "hold_after" in faults:
        monkeypatch.setattr(preview, "LOOK_S", 1.0)
    found = await preview_of(tmp_path, hub)

    assert (found.size_bytes, found.facts, found.problem) == (SIZE_BYTES, None, None)
    assert note in found.note


async def test_plain_url_that_says_nothing_is_not_known(tmp_path: Path, hub: Hub) -> None:
    hub.spare_looks, hub.statuses = False, [503]
    hub.plain["/m.gguf"] = BEGINNING
    message = await refused(tmp_path, hub, ModelSection(download_url=f"{hub.url}/m.gguf"))
    assert message == "nobody says how large m.gguf is: the server answered 503"


async def test_redirect_into_this_network_is_not_followed_and_gets_no_token(tmp_path: Path, hub: Hub) -> None:
    hub.token = "hf_secret"
    with running_hub() as inner:
        hub.redirect = f"{inner.url}{{path}}"
        found = await preview_of(tmp_path, hub, hf_token="hf_secret")
        assert not inner.asked
    assert "no public address" in found.note


async def test_hub_that_lies_about_a_size_is_not_believed(tmp_path: Path, hub: Hub, monkeypatch: Any) -> None:
    sizes = iter([SIZE_BYTES, SIZE_BYTES - 1])
    monkeypatch.setattr(Hub, "size", lambda *_: next(sizes))
    found = await preview_of(tmp_path, hub)
    assert "which is not so" in found.note


@pytest.mark.parametrize("size", [-1, "1", 2**60, None, True, [1]])
async def test_size_that_no_file_has_is_none(tmp_path: Path, hub: Hub, monkeypatch: Any, size: object) -> None:
    """Such a size could make any model fit."""
    info = Hub.info

    def lie(self: Hub, repo: str) -> Any:
        said = info(self, repo)
        said["siblings"][0]["size"] = size
        return said

    monkeypatch.setattr(Hub, "info", lie)
    found = await preview_of(tmp_path, hub)
    assert found.size_bytes == SIZE_BYTES, "the server of the file says another"


async def test_many_who_ask_share_one_look_and_its_answer_is_kept(tmp_path: Path, hub: Hub) -> None:
    known = previews(tmp_path, hub)
    async with asyncio.timeout(BOUND_S):
        first, second = await asyncio.gather(known.of(SECTION), known.of(SECTION))
        third = await known.of(SECTION)

    assert first is second is third
    assert len(hub.asked) == 2


async def test_failed_look_is_kept_for_a_short_time(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who asks again and again does not make the server ask as often; one who mends it is not told old news."""
    hub.gated.add(REPO)
    known = previews(tmp_path, hub)
    async with asyncio.timeout(BOUND_S):
        for _ in range(2):
            with pytest.raises(DownloadError, match="is gated"):
                await known.of(SECTION)
        assert len(hub.asked) == 1
        hub.gated.clear()
        monkeypatch.setattr(preview, "_ERROR_KEPT_S", 0.0)
        assert (await known.of(SECTION)).facts is not None


async def test_who_does_not_wait_ends_no_look(tmp_path: Path, hub: Hub) -> None:
    hub.spare_looks, hub.hold_after = False, 100
    known = previews(tmp_path, hub)
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(DownloadError, match="did not answer within 0 s"):
            await known.of(SECTION, within_s=0)
        leaves = asyncio.create_task(known.of(SECTION))
        await asyncio.to_thread(hub.held.wait, BOUND_S)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        hub.released.set()
        assert (await known.of(SECTION)).facts is not None
    assert len(hub.looks) == 1


async def test_no_more_sources_are_remembered_than_the_bound(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "_MOST_KEPT", 2)
    known = previews(tmp_path, hub)
    async with asyncio.timeout(BOUND_S):
        for number in range(4):
            hub.plain[f"/{number}.gguf"] = minimal_gguf()
            await known.of(ModelSection(download_url=f"{hub.url}/{number}.gguf"))
    assert len(known._known) == 2


async def test_looks_that_go_on_are_not_forgotten_for_others(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever may ask could begin threads without bound, one source after another, and all over again."""
    monkeypatch.setattr(preview, "_MOST_KEPT", 2)
    hub.spare_looks, hub.hold_after = False, 8
    sections = [ModelSection(download_url=f"{hub.url}/{number}.gguf") for number in range(3)]
    hub.plain = {f"/{number}.gguf": minimal_gguf() for number in range(3)}
    known = previews(tmp_path, hub)
    async with asyncio.timeout(BOUND_S):
        waiting = [asyncio.create_task(known.of(section)) for section in sections[:2]]
        await asyncio.to_thread(hub.held.wait, BOUND_S)
        with pytest.raises(DownloadError, match="2 sources are being asked and none has answered yet; ask again later"):
            await known.of(sections[2])
        hub.released.set()
        await asyncio.gather(*waiting)
        assert await known.of(sections[2])


async def test_repository_that_was_renamed_is_looked_at_under_its_new_name(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub sends on whoever asks under the old one, for the list and each file, and wants the token there, too."""
    hub.token = "hf_secret"
    handler, get = stand_in._Handler, stand_in._Handler.do_GET

    def renamed(self: Any) -> None:
        if "/org/old/" in f"{self.path.partition('?')[0]}/":
            hub.asked.append(stand_in.Asked(self.path, {}))
            self._answer(307, b"", {"location": self.path.replace("org/old", REPO)})
        else:
            get(self)

    monkeypatch.setattr(handler, "do_GET", renamed)
    found = await preview_of(tmp_path, hub, ModelSection(hf_repo="org/old:Q4_K_M"), hf_token="hf_secret")

    assert (found.size_bytes, found.facts is not None) == (SIZE_BYTES, True)
    assert len(hub.asked) == 4
