"""Images and sound in a request: only what was looked at reaches a llama-server, and only one that takes it."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.api.fields import ChatFields, read_fields
from app.api.media import admit_media, check_media, media_in
from app.engines.base import WeightsId
from app.errors import BadRequestError
from app.fleet.companions import Companions
from app.fleet.estimate import MAX_IMAGE_PIXELS, MAX_MEDIA
from app.fleet.spec import ModelSpec
from app.weights.inventory import WeightsFile
from tests.fakes import model_spec, run_spec
from tests.support.models import facts_of_projector
from tests.support.pictures import asking, image_part, jpeg, png, sound_part, wav

FILE = WeightsId(Path("/models/eye.gguf"), 1, 1)


def fields(*parts: dict[str, Any]) -> ChatFields:
    return read_fields(json.dumps({"messages": asking(*parts)}).encode(), ChatFields)


def fault(*parts: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(BadRequestError) as caught:
        check_media(media_in(fields(*parts)))
    return caught.value.message, caught.value.param


def with_projector(**encoders: bool) -> ModelSpec:
    """A model with a projector of these; unread where there are none."""
    facts = facts_of_projector(**encoders) if encoders else None
    spec = model_spec("small", replace(run_spec(), mmproj=FILE))
    return replace(spec, companions=Companions(mmproj=WeightsFile(FILE, facts)))


def refusal(spec: ModelSpec, *parts: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(BadRequestError) as caught:
        asyncio.run(admit_media(spec, media_in(fields(*parts))))
    return caught.value.message, caught.value.param


def test_usual_pictures_and_sounds_pass() -> None:
    check_media(media_in(fields(image_part(png(4, 4)), image_part(jpeg(4, 4), "jpeg"), sound_part(wav()))))


def test_media_of_a_request_are_few_however_small() -> None:
    """Each becomes as many numbers as a large one: 1,000 pictures of one pixel made llama-server take 1.7 GB."""
    pixel, sound = image_part(png(1, 1)), sound_part(wav())
    check_media(media_in(fields(*[pixel] * MAX_MEDIA)))
    message, param = fault(*[pixel] * MAX_MEDIA, sound)
    assert message == "17 images and sounds are too many: a request may hold 16; leave older ones out"
    assert param == "messages[0].content[17].input_audio.data"


@pytest.mark.parametrize(
    "url",
    [
        "data:video/mp4;base64,AAAA",
        "data:image/webp;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/png;base64",
        "data:,x",
        "data:image/svg+xml;base64,AAAA",
    ],
)
def test_image_of_another_kind_is_refused(url: str) -> None:
    """What llama-server takes for no image it would hand to ffmpeg."""
    message, param = fault({"type": "image_url", "image_url": {"url": url}})
    assert message.startswith("an image must be sent as data:image/png;base64,... or data:image/jpeg;base64,...")
    assert param == "messages[0].content[1].image_url.url"


@pytest.mark.parametrize("text", ["AAA", "AA AA", "AAAA,AAAA", "\u00e4AAA", "AAAA\nAAAA"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    message, _ = fault({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}})
    assert message.startswith("this is no base64: ")


def test_images_of_a_request_share_one_bound() -> None:
    """One after another would take as much as one that is too large."""
    half = MAX_IMAGE_PIXELS // 2 // 1024 + 1
    message, param = fault(image_part(jpeg(1024, half), "jpeg"), image_part(jpeg(1024, half), "jpeg"))
    assert message.startswith(f"the image has 1024 x {half} pixels, where ")
    assert message.endswith("for all images together")
    assert param == "messages[0].content[2].image_url.url"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"ID3\4" + bytes(40), "sound must be sent as a WAV file, in base64; convert it"),
        (b"fLaC" + bytes(40), "sound must be sent as a WAV file, in base64; convert it"),
        (wav(tag=0x11), "this WAV file is of a rare kind; save it as PCM of 8 to 192 kHz"),
        (wav(rate=1), "this WAV file is of a rare kind; save it as PCM of 8 to 192 kHz"),
        (wav(says=2**32 - 1), "this WAV file is broken, or cut short"),
        (wav()[:36], "this WAV file is broken, or cut short"),
        (wav()[:36] + wav()[12:], "this WAV file is broken, or cut short"),
    ],
    ids=["mp3", "flac", "packed", "slow", "says more", "no samples", "two formats"],
)
def test_sound_that_could_unpack_to_anything_is_refused(data: bytes, said: str) -> None:
    assert fault(sound_part(data)) == (said, "messages[0].content[1].input_audio.data")


@pytest.mark.parametrize("data", ["http://127.0.0.1/x", "https://x", "httpAAAA", "file:///etc/passwd"])
def test_nothing_is_fetched_for_a_sound(data: str) -> None:
    """llama-server takes an address in the place of a sound's data, and asks for it from inside."""
    with pytest.raises(BadRequestError, match="AirLab fetches nothing for a client"):
        fields({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})


def test_model_without_a_projector_says_what_to_add() -> None:
    message, param = refusal(model_spec("small"), image_part(png(1, 1)))
    assert message == (
        "small takes no images; to make it, set `mmproj: NAME.gguf` for it in airlab.yaml, the multimodal projector "
        "that comes beside the model, or name another model"
    )
    assert param == "messages[0].content[1].image_url.url"
    assert refusal(model_spec("small"), sound_part(wav()))[0].startswith(
        "small takes no sound; to make it, set `mmproj"
    )


def test_projector_that_is_named_and_not_on_disk_is_for_others_to_miss() -> None:
    """Whoever waits for the model is told which file lacks; the line that would be advised is there already."""
    asyncio.run(admit_media(model_spec("small", mmproj="eye.gguf"), media_in(fields(image_part(png(1, 1))))))


def test_projector_that_was_made_for_something_else_is_no_help() -> None:
    assert refusal(with_projector(vision=True), sound_part(wav()))[0] == (
        "small takes no sound; its multimodal projector is not made for hearing; name another model"
    )
    assert refusal(with_projector(audio=True), image_part(png(1, 1)))[0] == (
        "small takes no images; its multimodal projector is not made for seeing; name another model"
    )


@pytest.mark.parametrize("encoders", [{"vision": True}, {"vision": True, "audio": True}, {}])
def test_model_with_a_projector_takes_images(encoders: dict[str, bool]) -> None:
    asyncio.run(admit_media(with_projector(**encoders), media_in(fields(image_part(png(1, 1))))))
    assert "broken" in refusal(with_projector(**encoders), image_part(png(1, 1)[:30]))[0]


def test_text_alone_is_not_looked_at() -> None:
    asyncio.run(admit_media(model_spec("small"), media_in(fields())))


def test_model_elsewhere_is_handed_what_may_travel_at_all() -> None:
    """What it takes is for its server to say, and so is what it makes of it."""
    remote = model_spec("small", remote={"url": "http://elsewhere:8000/v1"})
    url = f"data:image/webp;base64,{b64encode(b'RIFF').decode()}"
    asyncio.run(admit_media(remote, media_in(fields({"type": "image_url", "image_url": {"url": url}}))))
