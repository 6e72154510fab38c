"""``airlab models list`` and ``airlab tools list``: from the manifest and the files, whether an AirLab runs or not."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from app.cli.main import DONE
from app.devices.ask import printable
from app.engines.native import NativeEngine
from app.fleet.spec import ModelSpec
from app.live.guards import builtin_tools
from app.live.inputs import first_snapshot, probe
from app.live.snapshot import Snapshot
from app.manifest.load import read_manifest
from app.settings import read_settings
from app.units import format_bytes

Row = dict[str, Any]
Columns = tuple[tuple[str, Callable[[Row], str]], ...]


def models(options: argparse.Namespace) -> int:
    """Print every model with what is known of its file."""
    snapshot = _snapshot(options)
    _print([_model(spec, snapshot) for spec in snapshot.models.values()], _MODEL_COLUMNS, as_json=options.json)
    return DONE


def tools(options: argparse.Namespace) -> int:
    """Print every tool, and whether models are offered it."""
    offered = _snapshot(options).policy.tools
    rows = [
        {"name": name, "offered": name in offered, "risk": tool.risk, "description": tool.description}
        for name, tool in builtin_tools().items()
    ]
    _print(rows, _TOOL_COLUMNS, as_json=options.json)
    return DONE


def _snapshot(options: argparse.Namespace) -> Snapshot:
    settings = read_settings(manifest=options.manifest)
    host = probe(NativeEngine(settings.run_dir, settings.llama_server_path), settings.launcher)
    return first_snapshot(read_manifest(settings.manifest), settings, host)


def _model(spec: ModelSpec, snapshot: Snapshot) -> Row:
    section, weights, facts = spec.section, spec.run.weights, spec.facts
    return {
        "key": spec.key,
        "default": spec.key == snapshot.chosen_model,
        "in_manifest": spec.key in snapshot.manifest.models,
        "filename": section.filename,
        "size_bytes": weights.size_bytes if weights else None,
        "context_length": spec.run.context_length,
        "kind": sorted(spec.run.kinds),
        "modalities": spec.modalities,
        "draft_model": spec.draft_name,
        "parameters": facts and facts.parameters,
        "quantisation": facts and facts.quantisation,
        "aliases": section.aliases,
        "recommended": section.recommended,
        "hf_repo": section.hf_repo,
        "download_url": section.download_url,
        "remote": section.remote.url if section.remote else None,
        "description": section.description,
        "problem": spec.problem,
    }


def _notes(row: Row) -> str:
    notes = {
        "default": row["default"],
        "recommended": row["recommended"],
        "not in the manifest": not row["in_manifest"],
        "takes images": "image" in (row["modalities"] or ()),
        "takes sound": "audio" in (row["modalities"] or ()),
        "drafted": row["draft_model"] is not None,
        "file missing": row["size_bytes"] is None and row["remote"] is None,
        "cannot start": row["problem"],
    }
    return ", ".join(note for note, holds in notes.items() if holds)


_MODEL_COLUMNS: Columns = (
    ("MODEL", lambda row: row["key"]),
    ("FILE", lambda row: row["filename"] or row["hf_repo"] or row["download_url"] or row["remote"] or ""),
    ("SIZE", lambda row: format_bytes(row["size_bytes"]) if row["size_bytes"] is not None else ""),
    ("QUANTISATION", lambda row: row["quantisation"] or ""),
    ("CONTEXT", lambda row: str(row["context_length"] or "auto")),
    ("KIND", lambda row: ", ".join(row["kind"])),
    ("NOTES", _notes),
)
_TOOL_COLUMNS: Columns = (
    ("TOOL", lambda row: row["name"]),
    ("OFFERED", lambda row: "yes" if row["offered"] else "no"),
    ("RISK", lambda row: row["risk"]),
    ("DESCRIPTION", lambda row: row["description"].partition("\n")[0]),
)


def _print(rows: list[Row], columns: Columns, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    table = [[title for title, _ in columns], *([printable(shown(row)) for _, shown in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print(_padded(line, widths))


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
