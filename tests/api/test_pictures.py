"""Pictures are measured before llama-server unpacks them: what it would believe is not believed here."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.pictures import PictureError, pixels_of
from tests.support.pictures import chunk, jpeg, png

MOST = 1_000_000
APPLES = "is a PNG picture of Apple's own kind; save it as a usual one"
"""With that part anywhere in it, 900 kB made llama-server take 900 MB: it reads the rows as bytes of another kind."""


def fault(data: bytes) -> str:
    with pytest.raises(PictureError) as caught:
        pixels_of(data, MOST)
    return str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (1000, 1000)])
def test_pixels_of_png_and_jpeg(size: tuple[int, int]) -> None:
    assert pixels_of(png(*size), MOST) == size[0] * size[1]
    assert pixels_of(jpeg(*size), MOST) == size[0] * size[1]


@pytest.mark.parametrize("make", [png, jpeg])
def test_picture_with_too_many_pixels_is_refused_by_what_it_says(make: Callable[[int, int], bytes]) -> None:
    """A file of less than a megabyte made llama-server take 1.7 GB."""
    assert fault(make(1001, 1000)).startswith("has 1001 x 1000 pixels, where 1000000 are the most; make it smaller")


@pytest.mark.parametrize("make", [png, jpeg])
def test_picture_without_pixels_is_refused(make: Callable[[int, int], bytes]) -> None:
    assert fault(make(0, 5)) == "has no pixels"


def test_png_that_unpacks_to_more_than_it_says_is_refused() -> None:
    """The decoder makes room for whatever comes, up to 4 GB, before it looks at the size."""
    bomb = zlib.compress(bytes(50_000_000))
    assert len(bomb) < 50_000
    assert fault(png(10, 10, rows=bomb)) == "unpacks to more than its size says"


def test_png_in_many_pieces_is_read_whole() -> None:
    rows = zlib.compress(b"\0" * (10 * 31))
    assert pixels_of(png(10, 10, rows=rows, piece=1), MOST) == 100
    assert fault(png(10, 9, rows=rows, piece=1)) == "unpacks to more than its size says"


def test_what_stands_behind_the_end_of_the_rows_is_not_read() -> None:
    """Each further piece would be copied together with all before it."""
    assert pixels_of(png(10, 10, rows=zlib.compress(b"\0" * 310) + bytes(2_000_000), piece=20), MOST) == 100


@pytest.mark.parametrize("head", [(16, 2, 0), (8, 2, 1), (8, 9, 0)], ids=["16 bits", "interlaced", "no such colours"])
def test_png_of_a_rare_kind_is_refused(head: tuple[int, int, int]) -> None:
    depth, colour, interlaced = head
    assert "of a rare kind" in fault(png(4, 4, depth=depth, colour=colour, interlaced=interlaced))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is neither a PNG nor a JPEG picture; convert it"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "is neither a PNG nor a JPEG picture; convert it"),
        (b"GIF89a", "is neither a PNG nor a JPEG picture; convert it"),
        (png(4, 4)[:20], "is a broken PNG picture"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(13)) + png(4, 4)[8:], "is a broken PNG picture"),
        (png(4, 4)[:33] + chunk(b"CgBI", b"") + png(4, 4)[33:], APPLES),
        (png(4, 4)[:-12] + chunk(b"CgBI", b"") + png(4, 4)[-12:], APPLES),
        (png(4, 4, rows=b"no deflate"), "is a broken PNG picture"),
        (b"\xff\xd8", "is a broken JPEG picture"),
        (b"\xff\xd8\xff\xd9", "is a broken JPEG picture, or of a rare kind; save it anew"),
        (jpeg(4, 4, marker=0xC3), "is a broken JPEG picture, or of a rare kind; save it anew"),
        (jpeg(4, 4) + b"\xff\xda\0\x02" * 65, "has more than 64 scans; save it anew"),
    ],
)
def test_what_is_no_usual_picture_is_refused_in_words(data: bytes, said: str) -> None:
    assert fault(data) == said


def test_size_behind_other_segments_of_a_jpeg_is_found() -> None:
    """A camera writes a page of its own settings first, with a small picture in it that has a size, too."""
    inner = jpeg(1, 1)
    before = b"\xff\xe1" + struct.pack(">H", 2 + len(inner)) + inner + b"\0\0\xff\xff\xfe\0\x04ab"
    assert pixels_of(jpeg(20, 10, before=before), MOST) == 200


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data


def test_film_behind_a_picture_has_no_scans() -> None:
    """Phones put one there; in a few megabytes of anything a scan's two bytes stand by chance."""
    scan = segment(0xDA, bytes(6)) + b"\1\xff\0\xff\xd0\2"
    assert pixels_of(jpeg(20, 10) + scan * 10 + b"\xff\xd9" + b"\xff\xda" * 500, MOST) == 200


def test_scans_behind_what_only_looks_like_an_end_are_counted() -> None:
    scan = segment(0xDA, bytes(6)) + b"\1\xff\0\xff\xff" + segment(0xE0, b"\xff\xd9") + segment(0xC4, b"\xff\xd9")
    assert fault(jpeg(20, 10) + segment(0xE1, b"\xff\xd9") + scan * 65) == "has more than 64 scans; save it anew"


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"]))
def test_no_bytes_bring_it_down(data: bytes, start: bytes) -> None:
    with contextlib.suppress(PictureError):
        assert 0 < pixels_of(start + data, MOST) <= MOST
