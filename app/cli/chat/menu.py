"""The models as a menu: what is loaded, what fits, what is recommended, which are fine-tunes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from app.cli.chat.clean import one_line
from app.client.shapes import Model
from app.errors import AirLabError

_WIDE = 100
"""Columns from which on there is room for descriptions."""


def usable(models: Sequence[Model]) -> list[Model]:
    """Those that could be switched to: their file is there, or can be downloaded, and nothing speaks against it."""
    return [
        model for model in models if model.problem is None and (model.exists or model.source in {"hf", "url", "remote"})
    ]


def menu(models: Sequence[Model], *, width: int) -> Table:
    """The models as a table that fits into ``width`` columns."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis", max_width=40 if width >= _WIDE else 30)
    table.add_column("state", no_wrap=True)
    table.add_column("context", justify="right", no_wrap=True)
    table.add_column("notes", overflow="fold")
    for number, model in enumerate(models, 1):
        style = "bold green" if model.recommended else "" if model.exists else "dim"
        row = (
            str(number),
            one_line(model.key, 60),
            state(model),
            _context(model),
            notes(model, with_words=width >= _WIDE),
        )
        table.add_row(*(Text(cell) for cell in row), style=style)
    return table


def state(model: Model) -> str:
    """In a word what would have to happen before it answers."""
    if model.loaded:
        return "● loaded"
    if model.problem is not None:
        return "✗ problem"
    if not model.exists:
        return "↓ download" if model.source in {"hf", "url"} else "✗ no file"
    return f"○ {one_line(model.state, 12)}"


def notes(model: Model, *, with_words: bool) -> str:
    """What is to be known of it, with its description where there is room."""
    tuned = f"fine-tune of {one_line(model.base_model, 40)}" if model.base_model else "fine-tune"
    found = {
        "current": model.current,
        "★ recommended": model.recommended,
        tuned: model.is_finetuned,
        _fit(model.fit): model.fit is not None,
        one_line(model.vram_estimate or "", 20): bool(model.vram_estimate),
        one_line(model.problem or "", 120): model.problem is not None,
        one_line(model.description, 100): with_words and bool(model.description),
    }
    return ", ".join(note for note, holds in found.items() if holds and note)


def _fit(fit: Any) -> str:
    if not isinstance(fit, dict) or not isinstance(fit.get("fits"), bool):
        return ""
    return "fits" if fit["fits"] else "does not fit"


def _context(model: Model) -> str:
    length = model.context_length
    return "" if length is None else f"{length // 1024}k" if length % 1024 == 0 else str(length)


def chosen(models: Sequence[Model], answer: str) -> Model:
    """The model that a number, a key or the beginning of one names.

    Raises:
        AirLabError: None, or several.
    """
    if answer.isascii() and answer.isdecimal() and 1 <= int(answer) <= len(models):
        return models[int(answer) - 1]
    exact = [model for model in models if model.key == answer]
    found = exact or [model for model in models if answer and model.key.startswith(answer)]
    if len(found) != 1:
        names = ", ".join(one_line(model.key, 60) for model in found or models)
        raise AirLabError(f"{one_line(answer, 60)!r} names {'several' if found else 'no'} models; there are {names}")
    return found[0]
