"""A session's name for people, made from what was said in it first. Pure; no model is asked."""

from __future__ import annotations

import re

NAME_CHARACTERS = 60
_LOOKED_AT_CHARACTERS = 4096
"""A message may be megabytes."""


def short_name(text: str) -> str | None:
    """The beginning of the first line that has words, cut between words; None where there are none."""
    # Control and format characters would let a name steer a terminal, or turn its line around.
    lines = ("".join(c if c.isprintable() else " " for c in line) for line in text[:_LOOKED_AT_CHARACTERS].splitlines())
    words = next((words for line in lines if re.search(r"\w", words := " ".join(line.split()))), "")
    words = words.lstrip("#>*-` ")
    if len(words) <= NAME_CHARACTERS:
        return words or None
    cut = words[: NAME_CHARACTERS - 1]
    return f"{cut.rsplit(' ', 1)[0] if ' ' in cut else cut}…"
