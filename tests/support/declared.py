"""Declared tools as a manifest has them; only tests use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.manifest.tool_sections import ToolsSection
from app.tools.base import ToolSpec
from app.tools.declared import spec_of

TEXT = {"type": "string"}


def takes(*required: str, **properties: Any) -> dict[str, Any]:
    """A schema of arguments; all those named first are texts and have to be there."""
    return {"properties": {**dict.fromkeys(required, TEXT), **properties}, "required": list(required)}


def section(kind: str, **settings: Any) -> Any:
    """The section of a tool, as the manifest's schema reads it."""
    described = {} if kind == "mcp" else {"description": "A tool."}
    return ToolsSection.model_validate({"it": {"kind": kind, **described, **settings}}).declared["it"]


def declared(kind: str, *, read: Callable[[str], str] = str, **settings: Any) -> ToolSpec:
    """The tool ``it`` that such a section declares."""
    spec = spec_of("it", section(kind, **settings), read=read)
    assert spec is not None
    return spec
