"""Files that go along with a message, as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import AirLabError
from app.units import KIB, format_bytes

MOST_BYTES = 256 * KIB
"""More would not fit into the context of most models anyway."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A text file as it was when it was read."""

    name: str
    text: str


def read_attachment(path: Path) -> Attachment:
    """A text file.

    Raises:
        AirLabError: It cannot be read, is no regular file, is too large, or is no UTF-8 text.
    """
    try:
        if not path.is_file():
            raise AirLabError(f"{path} is no file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as exc:
        raise AirLabError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(data) > MOST_BYTES:
        raise AirLabError(f"{path} is larger than {format_bytes(MOST_BYTES)}; attach the part that matters")
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise AirLabError(f"{path} is no UTF-8 text (byte {exc.start}); only text can go along") from exc
    if "\0" in text:
        raise AirLabError(f"{path} is no text: it holds NUL bytes")
    return Attachment(path.name, text)


def with_attachments(text: str, attached: Sequence[Attachment]) -> str:
    """The message with its files below, each in a fence that nothing in it can close."""
    return "\n\n".join([text, *(_fenced(each) for each in attached)])


def _fenced(each: Attachment) -> str:
    longest = max((len(run) for run in re.findall(r"`{3,}", each.text)), default=2)
    fence = "`" * (longest + 1)
    return f"{each.name}:\n{fence}\n{each.text.rstrip()}\n{fence}"
