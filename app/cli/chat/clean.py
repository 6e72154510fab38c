"""Text from elsewhere, made harmless for a terminal: what a model or a tool writes must not steer it."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, clearing
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC and its like: titles, clipboard
    r"|\x1b(?:[ -/]+[0-~]|[0-OQ-WYZ\\`-~])"  # the short ones
)
_BEGUN = re.compile(r"(?:\x1b|[\x90\x98\x9b\x9d-\x9f])[^\x07\n]{0,256}\Z")
_KEPT = frozenset({0x09, 0x0A})


def _replaced() -> Iterator[tuple[int, str]]:
    yield from ((code, "") for code in [*range(0x20), *range(0x7F, 0xA0)] if code not in _KEPT)
    # What turns the direction of text, or hides it: a person must read what is really there.
    yield from ((code, "") for code in [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080)])
    yield from ((code, "\n") for code in (0x2028, 0x2029))
    yield from ((code, "\ufffd") for code in range(0xD800, 0xE000))  # halves of characters: they cannot be printed


_REPLACED = dict(_replaced())


def clean(text: str) -> str:
    """The text with its lines and tabs, without control sequences and control characters."""
    return _SEQUENCES.sub("", text).translate(_REPLACED)


class Cleaner:
    """Cleans a text that comes in pieces; a control sequence may be spread over several."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be printed now: all but what may be the beginning of a control sequence."""
        text = _SEQUENCES.sub("", self._held + piece)
        begun = _BEGUN.search(text)
        self._held = text[begun.start() :] if begun else ""
        return clean(text[: begun.start()] if begun else text)

    def rest(self) -> str:
        """What was held back and turned out to be text."""
        held, self._held = self._held, ""
        return clean(held)


def one_line(text: str, most: int = 200) -> str:
    """The text as one short line."""
    line = " ".join(clean(text[: most * 4]).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
