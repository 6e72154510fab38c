"""Turns what pydantic says about a manifest into problems with a place, plain words and a way out.

Knows the schema only as pydantic models, given to it; what a setting means stands in ``schema.py`` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from app.manifest import schema, values
from app.manifest.allowed import allowed_at, is_free_name, metadata, sections
from app.manifest.nodes import Positions
from app.manifest.problems import Path, Problem, nearest, shown

_KEY = "[key]"
"""What pydantic appends to the place of a key that it refuses."""

_UNITS = (
    (get_args(values.Tokens)[1], " tokens"),
    (get_args(values.DurationS)[1], " seconds, or written with a unit, such as 15m"),
    (get_args(values.SizeBytes)[1], " bytes, or written with a unit, such as 256KiB"),
)
"""The reader of a written quantity, as it stands in the annotation, and what it counts."""

PATTERN_WORDS = {
    r"^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*$": "numbers as the kernel writes them, such as 0-13,28-41",
    r"^([0-9]{1,2}|GPU-[0-9A-Fa-f-]{8,64})$": 'a GPU\'s number such as "0", or its UUID such as GPU-1a2b3c4d',
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, dot, dash and underscore, the first a letter or a digit",
    r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$": "letters, digits and . _ : / @ -, the first a letter or a digit",
    r"^[^\x00-\x1f]+$": "one line of text",
    r"^[^\x00]+$": "a path, without a NUL character",
    r"^[^\x00]*$": "text without a NUL character",
    r"^https?://[^\s@/?#]+([/?#]\S*)?$": "a URL that begins with http:// or https://, without a user in it",
    r"^[A-Za-z0-9.-]+$": "a host name such as lab.example, without a port",
    r"^https?://[A-Za-z0-9.\[\]:-]+$": "an origin such as http://localhost:3000, without a path",
    r"^[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?$": "org/repo or org/repo:quantisation",
    r"^[0-9a-fA-F]{64}$": "a SHA-256 in hexadecimal, 64 digits",
    r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$": "up to 64 letters, digits, underscores and dashes, the first a letter or _",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "the name of an environment variable",
    r"^[A-Za-z0-9-]+$": "letters, digits and dashes",
    r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$": "file:function, such as orders:total",
    r"^[\x20-\x7e]*$": "one line of plain ASCII",
}
"""The schema's patterns in words; a pattern that is missing here is shown as it is."""


@dataclass(frozen=True)
class Words:
    """What is said of one mistake, before it has a place."""

    message: str
    allowed: str | None = None
    fix: str | None = None
    suggestion: str | None = None
    at_key: bool = False


@dataclass(frozen=True)
class _Case:
    """One error of pydantic's, with what its wording may need."""

    kind: str
    text: str
    context: dict[str, Any]
    path: Path
    value: Any
    annotations: tuple[Any, ...]
    """What the schema has at this place: several where it is a union."""
    around: tuple[Any, ...]
    """The same for the section that the place is in."""


def translate(errors: list[ErrorDetails], positions: Positions, model: type[BaseModel]) -> list[Problem]:
    """One problem for each key and each value that pydantic complained about.

    A union complains once for each of its members; together they are one problem, which allows what any of them does.
    """
    said: dict[tuple[Path, bool], list[Words]] = {}
    for error in errors:
        loc = tuple(part for part in error["loc"] if part != _KEY)
        if loc and loc[-1] in schema.AUTO_TAGS and not positions.has(loc):
            loc = loc[:-1]
        path, is_key = _yaml_path(error, positions), _KEY in error["loc"] or is_free_name(model, loc, error["type"])
        case = _Case(
            error["type"],
            error["msg"],
            error.get("ctx", {}),
            path,
            path[-1] if is_key else positions.written(path),
            allowed_at(model, loc),
            allowed_at(model, loc[:-1]),
        )
        words = TRANSLATED[case.kind](case) if case.kind in TRANSLATED else Words(case.text)
        said.setdefault((path, is_key), []).append(replace(words, at_key=words.at_key or is_key))
    return [_problem(path, words, positions) for (path, _), words in said.items()]


def _problem(path: Path, said: list[Words], positions: Positions) -> Problem:
    first = said[0]
    allowed = " or ".join(dict.fromkeys(words.allowed for words in said if words.allowed)) or None
    return positions.problem(
        path, first.message, at_key=first.at_key, allowed=allowed, fix=first.fix, suggestion=first.suggestion
    )


def _yaml_path(error: ErrorDetails, positions: Positions) -> Path:
    """The place as the YAML has it.

    Skip the union tag: pydantic reports profiles, generic, engine, docker, image, but the YAML has no "docker" level,
    so looking that path up would find no line to show. The last part of a missing setting is not there either, and
    stays.
    """
    loc = [part for part in error["loc"] if part != _KEY]
    last = [loc.pop()] if error["type"] == "missing" else []
    path: Path = ()
    for part in loc:
        if positions.has((*path, part)):
            path = (*path, part)
    if error["type"] == "union_tag_invalid":  # reported for the whole mapping, and one key of it is at fault
        last = [str(error["ctx"]["discriminator"]).strip("'")]
    return (*path, *last)


def _constraint(case: _Case, name: str) -> Any:
    for annotation in case.annotations:
        for item in metadata(annotation):
            if getattr(item, name, None) is not None:
                return getattr(item, name)
    return None


def _unknown(case: _Case) -> Words:
    names = tuple(dict.fromkeys(name for section in sections(case.around) for name in section.model_fields))
    word = str(case.path[-1])
    suggestion = nearest(word, names)
    if suggestion:
        fix = f"rename it to `{suggestion}`, or delete the line"
        return Words(f"no such setting; did you mean `{suggestion}`?", None, fix, suggestion, at_key=True)
    return Words("no such setting", ", ".join(names), "delete it", at_key=True)


def _fields(case: _Case) -> list[FieldInfo]:
    """The setting that the place is one of: none for an entry of a list or mapping, several in a union."""
    name = str(case.path[-1]) if case.path else ""
    return [section.model_fields[name] for section in sections(case.around) if name in section.model_fields]


def _or_delete(case: _Case) -> str:
    """The second way out, where there is a default to fall back to."""
    fields = _fields(case)
    return ", or delete the line" if fields and not any(field.is_required() for field in fields) else ""


def _missing(case: _Case) -> Words:
    name = str(case.path[-1])
    described = next((field.description for field in _fields(case)), None)
    return Words("is missing", None, f"add `{name}: ...`" + (f" ({described})" if described else ""), at_key=True)


def _wrong_type(wanted: str, example: str) -> Callable[[_Case], Words]:
    def words(case: _Case) -> Words:
        if case.value is None:
            return Words("has no value", wanted, f"write one, such as `{example}`{_or_delete(case)}")
        return Words(f"{_named(case.value)} is not {wanted}", wanted, f"write it like `{example}`")

    return words


def _named(value: Any) -> str:
    return f"the text {shown(value)}" if isinstance(value, str) else shown(value)


def _not_text(case: _Case) -> Words:
    if isinstance(case.value, bool | int | float):
        return Words(f"{shown(case.value)} is not text", "text", f'put it in quotes: "{shown(case.value)}"')
    return _wrong_type("text", '"some words"')(case)


def _not_number(wanted: str, example: str) -> Callable[[_Case], Words]:
    def words(case: _Case) -> Words:
        said = _wrong_type(wanted, example)(case)
        if isinstance(case.value, str) and case.value.strip("+-").isdecimal():
            return Words(said.message, said.allowed, "write it without quotes and leading zeros")
        return said

    return words


def _not_bool(case: _Case) -> Words:
    if isinstance(case.value, str) and case.value.casefold() in {"yes", "no", "on", "off", "y", "n", "true", "false"}:
        meant = "true" if case.value.casefold() in {"yes", "on", "y", "true"} else "false"
        return Words(f"{_named(case.value)} is neither true nor false", "true or false", f"write {meant}", meant)
    return _wrong_type("true or false", "true")(case)


def _not_a_choice(case: _Case) -> Words:
    allowed = str(case.context["expected"]).replace("'", "")
    choices = tuple(choice for choice in allowed.replace(" or ", ", ").split(", ") if choice)
    suggestion = nearest(case.value, choices) if isinstance(case.value, str) else None
    return Words(
        f"{shown(case.value)} is not one of the choices", allowed, f"write {suggestion or choices[0]}", suggestion
    )


def _beyond(which: str, word: str) -> Callable[[_Case], Words]:
    def words(case: _Case) -> Words:
        limit = case.context[which]
        lowest, highest = _constraint(case, "ge"), _constraint(case, "le")
        given = [item for annotation in case.annotations for item in metadata(annotation)]
        unit = next((unit for reader, unit in _UNITS if reader in given), "")
        allowed = f"{lowest} to {highest}" if None not in (lowest, highest) else f"{limit} or {word}"
        side = "below" if word == "more" else "above"
        return Words(
            f"{shown(case.value)} is {side} what is allowed", allowed + unit, f"use {limit} or {word}{_or_delete(case)}"
        )

    return words


def _length(case: _Case) -> Words:
    """Too short or too long, text and lists alike."""
    lowest = _constraint(case, "min_length") or case.context.get("min_length", 0)
    highest = _constraint(case, "max_length") or case.context.get("max_length")
    unit = "characters" if isinstance(case.value, str) else "entries"
    allowed = f"{lowest} to {highest} {unit}" if highest else f"{lowest} or more {unit}"
    if not case.value:
        return Words("is empty", allowed, f"put something in{_or_delete(case)}")
    count = len(case.value)
    side, fix = ("short", "write more") if count < lowest else ("long", "shorten it")
    return Words(f"is too {side}, with {count} {unit}", allowed, fix)


def _no_match(case: _Case) -> Words:
    pattern = case.context["pattern"]
    return Words(
        f"{shown(case.value)} is not written as it has to be",
        PATTERN_WORDS.get(pattern, pattern),
        "write it in that form",
    )


def _own_words(case: _Case) -> Words:
    """A validator of ours said what is wrong; it has the words already."""
    message = str(case.context["error"])
    return Words(message if len(message) <= 300 else f"{message[:300]}...", None, f"change it{_or_delete(case)}")


def _no_such_kind(case: _Case) -> Words:
    key = str(case.context["discriminator"]).strip("'")
    if case.kind == "union_tag_not_found":
        return Words(f"says no `{key}`", None, f"add `{key}: ...`")
    tag, allowed = str(case.context["tag"]), str(case.context["expected_tags"]).replace("'", "")
    suggestion = nearest(tag, tuple(allowed.split(", ")))
    return Words(f"there is no `{key}` called {shown(tag)}", allowed, f"write one of them as `{key}`", suggestion)


_MAPPING = _wrong_type("a mapping", "key: value")
_LIST = _wrong_type("a list", "[a, b]")

TRANSLATED: dict[str, Callable[[_Case], Words]] = {
    "extra_forbidden": _unknown,
    "missing": _missing,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "list_type": _LIST,
    "string_type": _not_text,
    "int_type": _not_number("a whole number", "8"),
    "float_type": _not_number("a number", "0.7"),
    "bool_type": _not_bool,
    "literal_error": _not_a_choice,
    "greater_than_equal": _beyond("ge", "more"),
    "less_than_equal": _beyond("le", "less"),
    "string_too_short": _length,
    "string_too_long": _length,
    "too_short": _length,
    "too_long": _length,
    "string_pattern_mismatch": _no_match,
    "value_error": _own_words,
    "union_tag_invalid": _no_such_kind,
    "union_tag_not_found": _no_such_kind,
}
"""pydantic's error types that have words of ours; any other keeps pydantic's."""
