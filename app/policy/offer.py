"""A tool as a model is shown it: its paths narrowed to the roots, in words and as a pattern. Pure.

A guided model can then write no other path, since the engine's grammar holds it to the schema; any other model at
least knows where it may look. The gate checks the arguments against the tool's own schema all the same.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from app.policy.rules import Policy
from app.tools.base import ToolSpec

_NAME = "[A-Za-z0-9_.,@()+-][A-Za-z0-9 _.,@()+-]*"
"""A file's name as a grammar may write it; a name with other characters is reached through a model that is not guided.
Not [^/]*: a small model would run on in it without end."""
_SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()]")


def shown(policy: Policy, spec: ToolSpec) -> ToolSpec:
    """The tool with its path arguments narrowed to the policy's roots; itself where it has none."""
    if not spec.paths or not policy.roots:
        return spec
    properties = dict(spec.parameters["properties"])
    roots = [str(root.path) for root in policy.roots]
    for name in spec.paths:
        properties[name] = _narrowed(properties[name], roots)
    return replace(spec, parameters={**spec.parameters, "properties": properties})


def _narrowed(schema: dict[str, Any], roots: list[str]) -> dict[str, Any]:
    # llama.cpp's grammars know no escapes but those of special characters.
    choices = "|".join(_SPECIAL.sub(r"\\\g<0>", root) for root in roots)
    where = f"A path that begins with {' or '.join(roots)}."
    description = f"{schema['description']} {where}" if schema.get("description") else where
    return {**schema, "description": description, "pattern": f"^({choices})(/{_NAME})*$"}
