"""What the manifest's schema allows at a place, read from its pydantic models: types, unions and constraints. Pure."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.manifest.problems import Path


def allowed_at(model: type[BaseModel], loc: Path) -> tuple[Any, ...]:
    """Everything the schema allows at pydantic's ``loc``, union tags included."""
    found: list[Any] = [model]
    for part in loc:
        found = [inner for annotation in found for inner in _step(annotation, part)]
    return tuple(found)


def sections(annotations: tuple[Any, ...]) -> list[type[BaseModel]]:
    """Those of them that are sections."""
    return [member for annotation in annotations for member in _members(annotation) if _is_section(member)]


def metadata(annotation: Any) -> Iterator[Any]:
    """The constraints on a value, however deep they are nested."""
    if get_origin(annotation) is Annotated:
        inner, *given = get_args(annotation)
        yield from metadata(inner)
        for item in given:
            yield from item.metadata if isinstance(item, FieldInfo) else (item,)
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from metadata(member)


def is_free_name(model: type[BaseModel], loc: Path, kind: str) -> bool:
    """True where pydantic refuses such a name: it says so as if the name were its value."""
    around = sections(allowed_at(model, loc[:-1])) if loc else []
    return kind.startswith("string_") and any(
        _has_free_names(each) and loc[-1] not in each.model_fields for each in around
    )


def _step(annotation: Any, part: str | int) -> Iterator[Any]:
    members = list(_members(annotation))
    tagged = [member for member in members if part in _tags(member)] if len(members) > 1 else []
    if tagged:
        yield from tagged
        return
    for member in members:
        if get_origin(member) is dict:
            yield get_args(member)[1]
        elif get_origin(member) is list:
            yield get_args(member)[0]
        elif _is_section(member) and part in member.model_fields:
            field: FieldInfo = member.model_fields[str(part)]
            yield Annotated[field.annotation, None, *field.metadata]
        elif (named := _free_names(member)) is not None:
            yield get_args(named)[1]


def _free_names(member: Any) -> Any:
    """What a section has under names of the user's, beside its own settings: a dict's annotation, or None."""
    return get_type_hints(member, include_extras=True)["__pydantic_extra__"] if _has_free_names(member) else None


def _has_free_names(member: Any) -> bool:
    return _is_section(member) and member.model_config.get("extra") == "allow"


def _members(annotation: Any) -> Iterator[Any]:
    """The types that a union is made of, without None; any other type is its own only member."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif annotation is not type(None):
        yield annotation


def _tags(member: Any) -> set[Any]:
    """The names that pydantic gives to a member of a union: those of its kind, or that of its class."""
    if not _is_section(member):
        return {getattr(member, "__name__", None)}
    literals = [field.annotation for field in member.model_fields.values() if get_origin(field.annotation) is Literal]
    return {member.__name__, *(choice for literal in literals for choice in get_args(literal))}


def _is_section(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, BaseModel)
