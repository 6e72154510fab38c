"""Pictures and sounds byte by byte, good ones and others, for tests of what models see and hear."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from typing import Any


def chunk(name: bytes, data: bytes) -> bytes:
    """One part of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int,
    height: int,
    *,
    rows: bytes | None = None,
    piece: int = 1 << 20,
    depth: int = 8,
    colour: int = 2,
    interlaced: int = 0,
) -> bytes:
    """A grey PNG picture; ``rows`` are its packed rows, cut into pieces."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    packed = zlib.compress((b"\0" + b"\x80" * 3 * width) * height) if rows is None else rows
    pieces = b"".join(chunk(b"IDAT", packed[at : at + piece]) for at in range(0, len(packed), piece))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pieces + chunk(b"IEND", b"")


def jpeg(width: int, height: int, *, before: bytes = b"", marker: int = 0xC0) -> bytes:
    """The head of a JPEG picture, up to its size; nothing can be seen of it."""
    size = struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + before + bytes([0xFF, marker]) + size


def wav(
    samples: bytes = bytes(3200), *, tag: int = 1, channels: int = 1, rate: int = 16_000, says: int | None = None
) -> bytes:
    """A WAV file; ``says`` is how long it says that it is, in bytes."""
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * 2 * channels, 2 * channels, 16)
    length = len(samples) if says is None else says
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", length) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def image_part(data: bytes, kind: str = "png") -> dict[str, Any]:
    """A picture as part of a message."""
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{b64encode(data).decode()}"}}


def sound_part(data: bytes) -> dict[str, Any]:
    """A sound as part of a message."""
    return {"type": "input_audio", "input_audio": {"data": b64encode(data).decode(), "format": "wav"}}


def asking(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a request about these."""
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}]
