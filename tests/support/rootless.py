"""Root, for a while without the right to open everything: what an ordinary user meets, met on a CI that is root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION_3 = 0x20080522
_OPENS_EVERYTHING = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH; see capabilities(7)."""


@contextmanager
def without_roots_rights() -> Iterator[None]:
    """Permissions count for this thread, and those that it starts meanwhile; for who is not root they do anyway."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    before, less = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    _checked("capget", header, before)
    ctypes.memmove(less, before, ctypes.sizeof(before))
    less[0] &= ~_OPENS_EVERYTHING  # in effect; it may take them back
    _checked("capset", header, less)
    try:
        yield
    finally:
        _checked("capset", header, before)


def _checked(name: str, header: ctypes.Array[ctypes.c_uint32], sets: ctypes.Array[ctypes.c_uint32]) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(header, sets) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
