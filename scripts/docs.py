"""Writes the pages that follow from the code: ``docs/airlab.schema.json`` for editors, ``docs/manifest.md`` for people.

Both come from ``app.manifest.schema``. With ``--check`` nothing is written: it fails, naming the command to run, where
a committed page differs from what the code says now.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from app.manifest.jsonschema import editor_schema
from app.manifest.reference import Section, Setting, settings_tree

ROOT = Path(__file__).resolve().parents[1]
INTRO = """# The manifest: airlab.yaml

Generated from `app/manifest/schema.py` by `make docs`; edit that, not this page. Unknown keys are refused.
"""


def manifest_page(tree: Setting) -> str:
    """The settings reference: a table for each section, in the order in which one meets them in the file."""
    parts = [INTRO]
    for path, section in _sections(tree):
        title = f"`{path}`" if path else "Top level"
        kind = f" ({section.kind})" if section.kind else ""
        rows = [_row(key, setting) for key, setting in section.settings.items()]
        table = ["| key | value | default | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {title}{kind}", "", section.description, "", *table, ""]))
    return "\n".join(parts)


def _sections(setting: Setting) -> Iterator[tuple[str, Section]]:
    for section in setting.sections:
        yield setting.path, section
        for below in section.settings.values():
            yield from _sections(below)
    if setting.entry is not None:
        yield from _sections(setting.entry)


def _row(key: str, setting: Setting) -> str:
    cells = [f"`{key}`", setting.value, setting.default_words, setting.description]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` compare them; the exit code."""
    pages = {
        ROOT / "docs" / "airlab.schema.json": json.dumps(editor_schema(), indent=2) + "\n",
        ROOT / "docs" / "manifest.md": manifest_page(settings_tree()),
    }
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if arguments == ["--check"]:
        if stale:
            print(f"{names}: not what the code says now; to fix: make docs", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages[path], encoding="utf-8")
    print(f"written: {names}" if stale else "nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
