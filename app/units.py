"""Sizes, durations and token counts: read from what people write, printed as they would say it."""

from __future__ import annotations

import re

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_SIZES = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_SIZES |= {"KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": 1024**4}
_PRINTED = (("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("TiB", 1024**4))
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TOKENS = {"": 1, "k": 1024}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")


def _split(text: str, what: str, example: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no {what}; write one like {example}")
    return float(match[1]), match[2]


def parse_bytes(text: str) -> int:
    """Read ``15GiB``, ``512 MiB`` or ``2GB``: bytes. Raises ValueError, which names the units."""
    number, unit = _split(text, "size", "15GiB")
    if unit.upper() not in _SIZES:
        raise ValueError(f"{text!r} has no known unit; use B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    return int(number * _SIZES[unit.upper()])


def parse_duration_s(text: str) -> float:
    """Read ``500ms``, ``30s``, ``15m``, ``2h`` or ``1d``: seconds. Raises ValueError, which names the units."""
    number, unit = _split(text, "duration", "15m")
    if unit not in _DURATIONS:
        raise ValueError(f"{text!r} has no known unit; use ms, s, m, h or d")
    return number * _DURATIONS[unit]


def parse_tokens(text: str) -> int:
    """Read ``8192`` or ``8k`` (8192): tokens. Raises ValueError."""
    number, unit = _split(text, "token count", "8192 or 8k")
    if unit.lower() not in _TOKENS or number * _TOKENS[unit.lower()] % 1:
        raise ValueError(f"{text!r} is no token count; write one like 8192 or 8k")
    return int(number * _TOKENS[unit.lower()])


def format_bytes(count: int) -> str:
    """Print 1610612736 as ``1.5 GiB``; exact below 1 KiB."""
    if count < KIB:
        return f"{count} B"
    # 1048575 is 1.0 MiB and not 1024.0 KiB: what counts is how it prints.
    name, unit = next(((n, u) for n, u in _PRINTED if round(count / u, 1) < 1024), _PRINTED[-1])
    return f"{count / unit:.1f} {name}"


def format_duration(seconds: float) -> str:
    """Print 0.25 as ``250 ms``, 4.2 as ``4.2 s``, 930 as ``15 m 30 s``."""
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest} s" if rest else f"{minutes} m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if minutes else f"{hours} h"
