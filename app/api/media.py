"""Images and sound in a chat request: what may travel to llama-server, which decodes it and trusts it.

Only data travels: llama-server would fetch a URL itself, from inside, and hand to ffmpeg what it takes for a video.
"""

from __future__ import annotations

import asyncio
import binascii
import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from app.api.fields import ChatFields, ImageUrl, InputAudio
from app.api.pictures import PictureError, pixels_of
from app.errors import BadRequestError
from app.fleet.estimate import MAX_IMAGE_PIXELS, MAX_MEDIA
from app.fleet.spec import ModelSpec

Modality = Literal["image", "audio"]

_IMAGE = re.compile(r"data:image/(?:png|jpe?g);base64,")
_SAMPLES, _RATES, _MOST_CHANNELS = frozenset({1, 3, 0xFFFE}), range(8000, 192_001), 8
"""Of a WAV file: plain numbers, whole or not, so many a second."""
_LOOKING = ThreadPoolExecutor(2, thread_name_prefix="media")
"""Threads of their own, and few: a crowd of requests with images keeps nobody else's work in a thread waiting."""


@dataclass(frozen=True, slots=True)
class Media:
    """One image or sound of a request."""

    modality: Modality
    text: str
    """As the client sent it."""
    where: str
    """The field that it stands in."""


def media_in(fields: ChatFields) -> tuple[Media, ...]:
    """Every image and sound of a request, unchecked."""
    return tuple(_media(fields))


def _media(fields: ChatFields) -> Iterator[Media]:
    for index, message in enumerate(fields.messages):
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            where = f"messages[{index}].content[{number}]"
            if part.type == "image_url" and isinstance(part.image_url, ImageUrl):
                yield Media("image", part.image_url.url, f"{where}.image_url.url")
            elif part.type == "input_audio" and isinstance(part.input_audio, InputAudio):
                yield Media("audio", part.input_audio.data, f"{where}.input_audio.data")


async def admit_media(spec: ModelSpec, media: tuple[Media, ...]) -> None:
    """See that a request's images and sound may go to this model; to one elsewhere they go unseen.

    Raises:
        BadRequestError: The model takes none, or one is not what may travel.
    """
    taken = spec.modalities
    if not media or taken is None:
        return
    if spec.section.mmproj is None or spec.run.mmproj is not None:  # else it is not on disk: whoever waits is told so
        _require(spec, taken, media)
    await asyncio.get_running_loop().run_in_executor(_LOOKING, check_media, media)


def _require(spec: ModelSpec, taken: tuple[str, ...], media: tuple[Media, ...]) -> None:
    """Raises BadRequestError, with the line to write, unless the model takes them all."""
    for each in media:
        if each.modality in taken:
            continue
        what, made = ("images", "seeing") if each.modality == "image" else ("sound", "hearing")
        if spec.run.mmproj is None:
            fix = (
                "to make it, set `mmproj: NAME.gguf` for it in airlab.yaml, the multimodal projector that comes "
                "beside the model, or name another model"
            )
        else:
            fix = f"its multimodal projector is not made for {made}; name another model"
        raise BadRequestError(f"{spec.key} takes no {what}; {fix}", param=each.where)


def check_media(media: tuple[Media, ...]) -> None:
    """See that none is more than it seems. Unpacks PNG pictures: for a thread.

    Raises:
        BadRequestError: They are too many, or one is of a kind that does not travel, is broken or too large; ``param``
            names the field.
    """
    if len(media) > MAX_MEDIA:
        message = f"{len(media)} images and sounds are too many: a request may hold {MAX_MEDIA}; leave older ones out"
        raise BadRequestError(message, param=media[MAX_MEDIA].where)
    left = MAX_IMAGE_PIXELS
    for each in media:
        try:
            if each.modality == "image":
                left -= pixels_of(_decoded(_image_data(each.text)), left)
            else:
                _check_wav(_decoded(each.text))
        except PictureError as exc:
            whole = " for all images together" if left < MAX_IMAGE_PIXELS else ""
            raise BadRequestError(f"the image {exc}{whole}", param=each.where) from exc
        except ValueError as exc:
            raise BadRequestError(str(exc), param=each.where) from exc


def _image_data(url: str) -> str:
    found = _IMAGE.match(url)
    if found is None:
        raise ValueError(
            "an image must be sent as data:image/png;base64,... or data:image/jpeg;base64,...; AirLab fetches nothing "
            "for a client"
        )
    return url[found.end() :]


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"this is no base64: {exc}") from exc


def _check_wav(data: bytes) -> None:
    """Raises ValueError unless it is a WAV file of plain samples that is as long as it says.

    Other kinds of sound unpack to whatever they like; and the decoder makes room for as much as a header says.
    """
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError("sound must be sent as a WAV file, in base64; convert it")
    at, formats = 12, 0
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        at += 8
        if at + length > len(data):
            break
        if name == b"fmt " and length >= 16:
            tag, channels, rate = struct.unpack_from("<HHI", data, at)
            formats += 1
            if tag not in _SAMPLES or not 1 <= channels <= _MOST_CHANNELS or rate not in _RATES:
                raise ValueError("this WAV file is of a rare kind; save it as PCM of 8 to 192 kHz")
        elif name == b"data" and formats == 1:
            return
        at += length + length % 2
    raise ValueError("this WAV file is broken, or cut short")
