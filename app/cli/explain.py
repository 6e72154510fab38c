"""``airlab explain KEY``: what a key of the manifest means, and what may stand there."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from app.cli.main import DONE, MISUSED
from app.manifest.lookup import find, unknown_words
from app.manifest.reference import ITEM, NAME, Section, Setting, settings_tree

_WIDTH = 80
_MARGIN = "  "


def explain(options: argparse.Namespace) -> int:
    """Print what is known of a key; exit code 2 with the nearest one where there is no such key."""
    tree = settings_tree()
    found = find(tree, options.key)
    if not found:
        print(f"airlab: {unknown_words(tree, options.key)}", file=sys.stderr)
        return MISUSED
    if options.json:
        print(json.dumps({"settings": [_fields(setting) for setting in found]}))
    else:
        print("\n\n".join("\n".join(_lines(setting)) for setting in found))
    return DONE


def _fields(setting: Setting) -> dict[str, Any]:
    return {
        "key": setting.path,
        "where": setting.where,
        "description": setting.description,
        "value": _unquoted(setting.value),
        "unit": setting.unit,
        "form": setting.form,
        "required": setting.required,
        "default": setting.default,
        "example": setting.example,
        "sections": [
            {
                "key": place.path,
                "kind": section.kind,
                "keys": {key: each.description for key, each in section.settings.items()},
            }
            for place, section in _sections(setting)
        ],
    }


def _lines(setting: Setting) -> Iterator[str]:
    where = f" (where {setting.where})" if setting.where else ""
    yield f"{setting.path or 'airlab.yaml'}{where}"
    sections = list(_sections(setting))
    # A section's own words often begin with those of the setting that holds it.
    more = [section.description.removeprefix(setting.description).strip() for _, section in sections]
    yield from _paragraph(" ".join([setting.description, *(more if len(more) == 1 else ())]))
    yield ""
    facts = {"value": _unquoted(setting.value), "form": setting.form, "unit": setting.unit}
    if setting.path and not setting.path.endswith((NAME, ITEM)):
        facts |= {"default": _unquoted(setting.default_words), "example": setting.example}
    yield from _table({name: fact for name, fact in facts.items() if fact})
    for (place, section), words in zip(sections, more, strict=True):
        yield ""
        if section.kind:
            yield from _paragraph(f"where {section.kind}: {words}")
        yield f"{_MARGIN}{'keys' if section.settings else 'no keys'} of {place.path or 'airlab.yaml'}:"
        yield from _table({key: _meaning(each) for key, each in section.settings.items()}, indent=_MARGIN * 2)


def _sections(setting: Setting) -> Iterator[tuple[Setting, Section]]:
    """The sections at the setting, else those of its entries."""
    inner: Setting | None = setting
    while inner is not None and not inner.sections:
        inner = inner.entry
    if inner is not None:
        yield from ((inner, section) for section in inner.sections)


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=_MARGIN, subsequent_indent=_MARGIN)


def _meaning(setting: Setting) -> str:
    return f"{setting.description} (required)" if setting.required else setting.description


def _table(rows: dict[str, str], *, indent: str = _MARGIN) -> Iterator[str]:
    width = max(map(len, rows), default=0) + 2
    for name, text in rows.items():
        first, hanging = f"{indent}{name:{width}}", f"{indent}{'':{width}}"
        yield from textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=hanging) or [first.rstrip()]


def _unquoted(words: str) -> str:
    """Without the marks that the reference page has."""
    return words.replace("`", "")
