"""What is saved in a soak: right files that differ from each other, and broken ones of every kind between them."""

from __future__ import annotations

import json
from typing import Any

from tests.support.service import Lab

_BROKEN_ONE_IN, _GUARDS_ONE_IN = 3, 25


def is_broken(number: int) -> bool:
    return number % _BROKEN_ONE_IN == 0


def guards_change(number: int) -> bool:
    """Whether this edit needs other tool workers, or needs those of before again."""
    return number % _GUARDS_ONE_IN in {1, 2, 3}


def manifest(base: dict[str, Any], number: int) -> str:
    """The file as it is saved for the ``number``th time, from 1: each right one differs from the one before."""
    models = dict(base["models"])
    models["edited"] = {**models["edited"], "description": f"edit {number}", "context_length": 1024 * (1 + number % 4)}
    if number % 2:
        models[f"new-{number}"] = {"filename": "new.gguf", "parallel": 1 + number % 3}
    edited = base | {"models": models, "defaults": {"temperature": number % 20 / 10}}
    if number % _GUARDS_ONE_IN in {1, 2}:
        edited |= {"policy": {"limits": {"results": 10 + number}}}
    return _broken(edited, number) if is_broken(number) else json.dumps(edited, indent=1)


def _broken(right: dict[str, Any], number: int) -> str:
    text = json.dumps(right, indent=1)
    ways = (
        lambda: text[: len(text) * (number % 7) // 7],
        lambda: text.replace('"default_model"', '"defualt_model"'),
        lambda: json.dumps(right | {"models": number}),
        lambda: json.dumps(right | {"policy": {"roots": [{"path": "/"}]}}),
        lambda: json.dumps(right | {"tools": {"builtin": [f"tool_{number}"]}}),
        lambda: text.replace(": ", ":\t", 1) + text,
    )
    return ways[number // _BROKEN_ONE_IN % len(ways)]()


def base_manifest(lab: Lab, more_models: int) -> dict[str, Any]:
    """What the lab begins with, and so many models more that nobody loads."""
    base: dict[str, Any] = json.loads(lab.manifest.read_text())
    more = {f"idle-{number}": {"filename": f"idle-{number}.gguf"} for number in range(more_models)}
    return base | {"models": base["models"] | {"edited": {"filename": "edited.gguf"}} | more}
