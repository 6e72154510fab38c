"""Reads a binary file front to back within bounds, whatever its own numbers claim. Knows nothing of what they mean.

The file may lie on disk, or be no more than its beginning, which came over a network. On disk by ``pread`` and never by
``mmap``: a file that somebody cuts short meanwhile is a short read then, and no SIGBUS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from app.units import MIB

MAX_HEADER_BYTES = 64 * MIB
"""Four times the largest seen: 260,000 tokens and half a million merges take less than 16 MiB."""
_WINDOW_BYTES = MIB

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")

COPY_AGAIN = "copy or download it again, and wait until it is whole"
CONVERT_AGAIN = "convert it again with a current llama.cpp, or get another copy"


class BrokenError(Exception):
    """What is wrong with a file, without its name, and what to do."""

    def __init__(self, what: str, fix: str = CONVERT_AGAIN) -> None:
        """Keep both for whoever knows the name."""
        super().__init__(what)
        self.what, self.fix = what, fix


class CutShortError(BrokenError):
    """What should be there by the file's size is not."""


class Reader:
    """Reads a file front to back, a window of it at a time. Every method raises BrokenError at the file's end."""

    def __init__(self, read_at: Callable[[int, int], bytes], size_bytes: int) -> None:
        """Begin at the front.

        Args:
            read_at: Given how many bytes from which position: those, or fewer where fewer are there.
            size_bytes: Of the whole file.
        """
        self.size_bytes = size_bytes
        self._read_at = read_at
        self._window, self._begins, self._at = b"", 0, 0

    @property
    def position(self) -> int:
        """Of the next byte, in the file."""
        return self._begins + self._at

    def number(self, form: struct.Struct) -> Any:
        """The next number, written in this form."""
        self._have(form.size)
        (value,) = form.unpack_from(self._window, self._at)
        self._at += form.size
        return value

    def text(self, what: str, most_bytes: int) -> str:
        """The next text, a length before its bytes; ``what`` names it where it is too long."""
        length = self.number(U64)
        if length > most_bytes:
            raise BrokenError(f"has {what} of {length} bytes, where {most_bytes} are the most")
        self._have(length)
        text = self._window[self._at : self._at + length]
        self._at += length
        return text.decode(errors="replace")

    def skip(self, count_bytes: int) -> None:
        """Pass over so many bytes."""
        self._reach(self.position + count_bytes)
        self._at += count_bytes

    def skip_texts(self, count: int) -> None:
        """Pass over so many texts; what costs time in a header are its tokens."""
        length_at = U64.unpack_from
        while count:
            self._have(U64.size)
            window, at = self._window, self._at
            last = len(window) - U64.size
            while count and at <= last:
                at += U64.size + length_at(window, at)[0]
                count -= 1
            self._at = at
            self._reach(self.position)

    def _have(self, count_bytes: int) -> None:
        """Make sure that the window holds the next so many bytes."""
        if len(self._window) - self._at >= count_bytes:
            return
        position = self.position
        self._reach(position + count_bytes)
        self._window = self._read_at(max(count_bytes, _WINDOW_BYTES), position)
        self._begins, self._at = position, 0
        if len(self._window) < count_bytes:
            raise CutShortError("was cut short while it was read", COPY_AGAIN)

    def _reach(self, position: int) -> None:
        if position > self.size_bytes:
            raise BrokenError(f"ends in the middle of its header, after {self.size_bytes} bytes", COPY_AGAIN)
        if position > MAX_HEADER_BYTES:
            raise BrokenError(f"has a header of more than {MAX_HEADER_BYTES // MIB} MiB")
