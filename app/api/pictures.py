"""How large a picture is once it is unpacked, told from its bytes before anybody unpacks it.

llama-server's decoder believes what a file says of itself: a PNG of 700 kB that says it has 16000 x 16000 pixels makes
it take 1.7 GB, and one whose data go on for ever makes it take 4 GB, whatever size it says. So a picture is measured
here first, and what this does not know is refused. Pure.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_APPLES = b"CgBI"
"""Wherever it stands, the decoder reads the rows without zlib's head: as other bytes than were counted here."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values of a pixel, by PNG's number for what they mean."""
_SIZES = frozenset({0xC0, 0xC1, 0xC2})
"""JPEG's markers before a picture's size: the kinds that the decoder knows."""
_WITH_LENGTH = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""Its markers that may stand before those."""
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""What ends a scan; the others mean a byte of it, or that it goes on."""
_SCAN, _LINES, _MOST_SCANS = 0xDA, 0xDC, 64
"""Each scan of a JPEG is one more walk over the whole picture, for a few bytes; usual ones have ten."""
_STEP_BYTES = 64 * 1024


class PictureError(ValueError):
    """What is wrong with a picture, and what to do."""


def pixels_of(data: bytes, most: int) -> int:
    """The pixels of a PNG or JPEG picture, at most ``most``. Takes 0.2 s for a PNG of 16 million: for a thread.

    Raises:
        PictureError: It is neither, is broken, is larger, or unpacks to more than its size says.
    """
    if data.startswith(_PNG):
        width, height = _png_size(data)
    elif data.startswith(_JPEG):
        width, height = _jpeg_size(data)
    else:
        raise PictureError("is neither a PNG nor a JPEG picture; convert it")
    if not width or not height:
        raise PictureError("has no pixels")
    if width * height > most:
        raise PictureError(
            f"has {width} x {height} pixels, where {most} are the most; make it smaller: a model looks at far fewer"
        )
    if data.startswith(_PNG):
        _check_png_data(data, width, height)
    return width * height


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise PictureError("is a broken PNG picture")
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if depth > 8 or interlaced or colour not in _CHANNELS:
        raise PictureError("is a PNG picture of a rare kind; save it with 8 bits a channel, not interlaced")
    return width, height


def _check_png_data(data: bytes, width: int, height: int) -> None:
    """Raises PictureError where its data unpack to more than its size says."""
    if any(name == _APPLES for name, _ in _png_parts(data)):
        raise PictureError("is a PNG picture of Apple's own kind; save it as a usual one")
    depth, colour = data[24], data[25]
    left = height * (1 + -(-width * depth * _CHANNELS[colour] // 8))
    unpacking = zlib.decompressobj()
    try:
        for part in _png_data(data):
            left -= len(unpacking.decompress(part, _STEP_BYTES))
            while unpacking.unconsumed_tail and left >= 0:
                left -= len(unpacking.decompress(unpacking.unconsumed_tail, _STEP_BYTES))
            if left < 0:
                raise PictureError("unpacks to more than its size says")
            if unpacking.eof:
                return
    except zlib.error as exc:
        raise PictureError("is a broken PNG picture") from exc


def _png_data(data: bytes) -> Iterator[bytes]:
    """The packed rows, in pieces that are small, so that what is left of one is cheap to keep."""
    for name, piece in _png_parts(data):
        if name == b"IDAT":
            yield from (bytes(piece[start : start + _STEP_BYTES]) for start in range(0, len(piece), _STEP_BYTES))


def _png_parts(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Its parts by name, as far as the decoder reads them."""
    at, view = len(_PNG), memoryview(data)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IEND":
            return
        yield name, view[at + 8 : at + 8 + length]
        at += 12 + length


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """The size by the first marker that says one; markers are found as the decoder finds them."""
    at = len(_JPEG)
    try:
        while True:
            while data[at] != 0xFF:
                at += 1
            while data[at] == 0xFF:
                at += 1
            marker, length = data[at], int.from_bytes(data[at + 1 : at + 3])
            if marker in _SIZES:
                if _scans(data, at + 1) > _MOST_SCANS:
                    raise PictureError(f"has more than {_MOST_SCANS} scans; save it anew")
                height, width = struct.unpack_from(">HH", data, at + 4)
                return width, height
            if marker not in _WITH_LENGTH or length < 2:
                raise PictureError("is a broken JPEG picture, or of a rare kind; save it anew")
            at += 1 + length
    except (IndexError, struct.error) as exc:
        raise PictureError("is a broken JPEG picture") from exc


def _scans(data: bytes, at: int) -> int:
    """How many scans stand behind the segment whose length is at ``at``, one more than the most at most.

    Only up to where the decoder stops: a phone puts a film behind its picture, in which anything looks like a scan.
    """
    scans = 0
    while scans <= _MOST_SCANS:
        found = _MARKER.search(data, at + int.from_bytes(data[at : at + 2]))
        if found is None or found[0][1] not in {_SCAN, _LINES, *_WITH_LENGTH}:
            break
        at, scans = found.end(), scans + (found[0][1] == _SCAN)
    return scans
