"""The tool ``get_current_directory``."""

from __future__ import annotations

from app.tools.base import Confinement, ToolProblem, tool


@tool(risk="read")
def get_current_directory(*, inside: Confinement) -> dict[str, str]:
    """Tell the folder to work in: where relative thinking should start."""
    roots = (*inside.write, *inside.read)
    if not roots:
        raise ToolProblem("no_folder", "There is no folder to work in. Ask the user to add one to policy.roots.")
    return {"path": str(roots[0])}
