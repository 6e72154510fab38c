"""A tool as a model is shown it: whether at all, and its paths narrowed to the roots, in words and as a pattern. Pure.

A guided model can then write no other path, since the engine's grammar holds it to the schema; any other model at
least knows where it may look. The gate checks the arguments against the tool's own schema all the same.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from app.policy.rules import Policy
from app.tools.base import ToolSpec
from app.tools.schemas import for_models

_NAME = "[A-Za-z0-9_.,@()+-][A-Za-z0-9 _.,@()+-]*"
"""A file's name as a grammar may write it; a name with other characters is reached through a model that is not guided.
Not [^/]*: a small model would run on in it without end."""
_SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()]")


def why_not(policy: Policy, spec: ToolSpec, wall_is_off: str | None) -> str | None:
    """Why no call of a tool could run, in words; None where one may.

    Args:
        policy: The rules in force.
        spec: The tool.
        wall_is_off: Why no worker of its kind comes up here, if so.
    """
    if wall_is_off is not None:
        return wall_is_off
    if spec.changes and not any(root.access == "write" for root in policy.roots):
        return "no folder is open for writing (policy.roots)"
    if spec.risk == "destructive" and policy.destructive == "deny":
        return "policy.destructive is deny"
    return None


def shown(policy: Policy, spec: ToolSpec) -> ToolSpec:
    """The tool with its path arguments narrowed to the policy's roots; itself where it has none.

    Of a schema that is not ours, only what every engine can make a grammar of.
    """
    if spec.is_declared:
        spec = replace(spec, parameters=for_models(spec.parameters))
    if not spec.paths or not policy.roots:
        return spec
    properties = dict(spec.parameters["properties"])
    for name in spec.paths:
        fitting = [root for root in policy.roots if root.access == "write" or name not in spec.changes]
        if fitting:
            properties[name] = _narrowed(properties[name], [str(root.path) for root in fitting])
    return replace(spec, parameters={**spec.parameters, "properties": properties})


def _narrowed(schema: dict[str, Any], roots: list[str]) -> dict[str, Any]:
    # llama.cpp's grammars know no escapes but those of special characters.
    choices = "|".join(_SPECIAL.sub(r"\\\g<0>", root) for root in roots)
    where = f"A path that begins with {' or '.join(roots)}."
    description = f"{schema['description']} {where}" if schema.get("description") else where
    return {**schema, "description": description, "pattern": f"^({choices})(/{_NAME})*$"}
