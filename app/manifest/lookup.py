"""Finds the setting that people mean by a key, or says which one they may have meant. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from app.manifest.problems import nearest, shown
from app.manifest.reference import ITEM, NAME, Setting

_PART = re.compile(r"\[\d*\]|[^.\[\]]+")
_LOOKS_LIKE_A_SETTING = re.compile(r"[a-z][a-z_]*")
_MISTYPED = 0.85
"""So alike are a setting and its misspelling; names of the user's may come nearer than `nearest` allows."""


def find(tree: Setting, key: str) -> tuple[Setting, ...]:
    """The setting that a key means: one, or several where kinds of a section differ in it; none if there is no such.

    A name of the user's, such as a model's key, may stand where the schema has NAME, dots and all; so may NAME itself,
    or nothing: ``models.qwen2.5-7b.parallel``, ``models.NAME.parallel`` and ``models.parallel`` are the same.
    """
    return _below(tree, _PART.findall(key))


def _below(setting: Setting, parts: list[str]) -> tuple[Setting, ...]:
    if not parts:
        return (setting,)
    here = (section.settings[parts[0]] for section in setting.sections if parts[0] in section.settings)
    found = [below for each in here for below in _below(each, parts[1:])]
    if found:
        same = all(replace(each, where=None) == replace(found[0], where=None) for each in found)
        return (replace(found[0], where=None),) if same and found[1:] else tuple(found)
    if setting.entry is None:
        return ()
    if setting.entry.path.endswith(ITEM):
        return _below(setting.entry, parts[1:] if parts[0].strip("[]").isdecimal() or parts[0] == ITEM else parts)
    for taken in range(len(parts)):
        if named := _below(setting.entry, parts[taken:]):
            return named
    return () if _is_mistyped(parts, setting.entry) else (setting.entry,)


def _is_mistyped(parts: list[str], entry: Setting) -> bool:
    """Whether these are rather a misspelt setting than a name of the user's, which may hold dots."""
    alike = difflib.get_close_matches(parts[0], entry.keys, n=1, cutoff=_MISTYPED)
    return bool(alike) or any(map(_LOOKS_LIKE_A_SETTING.fullmatch, parts[1:]))


def unknown_words(tree: Setting, key: str) -> str:
    """What to say of a key that ``find`` does not find: the nearest one, or those that there are."""
    parts = _PART.findall(key)
    known = next(count for count in reversed(range(len(parts))) if _below(tree, parts[:count]))
    around = [inner for setting in _below(tree, parts[:known]) for inner in _inside(setting)]
    choices = {name: f"{setting.path}.{name}".lstrip(".") for setting in around for name in setting.keys}
    word, last = parts[known], parts[-1]
    if meant := nearest(word, tuple(choices)):
        return f"{shown(key)}: no such setting; did you mean `{choices[meant]}`?"
    anywhere = {_last_key(each): each.path for each in sorted(tree.walk(), key=lambda each: -each.path.count("."))}
    if alike := difflib.get_close_matches(last, anywhere, n=1, cutoff=_MISTYPED):
        return f"{shown(key)}: no such setting; did you mean `{anywhere[alike[0]]}`?"
    place = f"`{around[0].path}`" if around[0].path else "the top level"
    there = f"has {', '.join(choices)}" if choices else "holds no other settings"
    return f"{shown(key)}: no such setting; {place} {there}"


def _inside(setting: Setting) -> list[Setting]:
    """The setting, and what its entries hold: a name may be left out of a key."""
    return [setting, *(_inside(setting.entry) if setting.entry is not None else ())]


def _last_key(setting: Setting) -> str:
    """Empty where the user gives the name."""
    return "" if setting.path.endswith((NAME, ITEM)) else setting.path.rpartition(".")[2]
