"""The changes that AirLab makes to a manifest when it is asked to: models and tools, added and removed.

Pure, text in and text out, the same for the command line and for HTTP. Whether the result is right is asked later, of
the whole manifest: that no reference is left to a model that goes, among other things.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from app.errors import AlreadyThereError, ModelNotFoundError, ToolNotFoundError
from app.manifest.edit import add_entry, append_item, remove_entry, set_value
from app.manifest.load import Loaded
from app.manifest.problems import nearest, shown

_BUILTIN = ("tools", "builtin")


def add_model(loaded: Loaded, key: str, fields: Mapping[str, Any]) -> str:
    """With one more model. Raises AlreadyThereError, ManifestEditError."""
    if key in loaded.manifest.models:
        raise AlreadyThereError(f"there is a model {shown(key)} already; choose another key, or remove that one first")
    return add_entry(loaded, ("models",), key, dict(fields))


def remove_model(loaded: Loaded, key: str) -> str:
    """Without a model; its file stays. Raises ModelNotFoundError, ManifestEditError."""
    models = loaded.manifest.models
    if key not in models:
        by_alias = {alias: other for other, model in models.items() for alias in model.aliases}
        raise ModelNotFoundError(f"no model {_unknown(key, tuple(models), by_alias.get(key))}")
    return remove_entry(loaded, ("models", key))


def add_tool(loaded: Loaded, name: str, known: Collection[str]) -> str:
    """With one more tool offered, of those that are known. Raises as ``remove_tool`` does, and AlreadyThereError."""
    offered = _offered(loaded, name, known)
    if name in offered:
        everything = loaded.manifest.tools.builtin == "all"
        raise AlreadyThereError(f"{name} is offered already" + (": tools.builtin is all" if everything else ""))
    return append_item(loaded, _BUILTIN, name)


def remove_tool(loaded: Loaded, name: str, known: Collection[str]) -> str:
    """With one tool less offered; ``all`` becomes the list of the others.

    Raises:
        ToolNotFoundError: There is no such tool, or it is not offered.
        ManifestEditError: The text cannot be changed so.
    """
    offered = _offered(loaded, name, known)
    if name not in offered:
        raise ToolNotFoundError(f"{name} is not among the tools that are offered; {_listed(offered)}")
    if loaded.manifest.tools.builtin == "all":
        return set_value(loaded, _BUILTIN, [other for other in offered if other != name])
    return remove_entry(loaded, (*_BUILTIN, offered.index(name)))


def _offered(loaded: Loaded, name: str, known: Collection[str]) -> list[str]:
    """The tools offered now, for a change of one that there is. Raises ToolNotFoundError."""
    if name not in known:
        raise ToolNotFoundError(f"no tool {_unknown(name, tuple(known))}")
    builtin = loaded.manifest.tools.builtin
    return list(known) if builtin == "all" else list(builtin)


def _unknown(name: str, known: tuple[str, ...], meant: str | None = None) -> str:
    meant = meant or nearest(name, known)
    return f"{shown(name)}{f'; did you mean `{meant}`?' if meant else ''}; {_listed(known)}"


def _listed(names: Collection[str]) -> str:
    return f"there are {', '.join(names)}" if names else "there are none"
