"""What a query parameter may be, in people's words; read from the route that takes it."""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal, get_args, get_origin

from litestar import Request
from litestar.enums import ParamType
from litestar.params import KwargDefinition
from litestar.typing import FieldDefinition

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
_MOST_CHARS = 40
"""Of what was sent, that are repeated."""


def refusal_of(request: Request[Any, Any, Any], problem: dict[str, Any]) -> str:
    """One problem of Litestar's: for a query parameter what it must be and what was sent, else in Litestar's words."""
    name = str(problem.get("key"))
    field = request.route_handler.parsed_fn_signature.parameters.get(name)
    given = request.query_params.getall(name, [])
    must_be = _words_for(field) if field and given and problem.get("source") is ParamType.QUERY else None
    if must_be is None:
        return f"{name}: {problem.get('message')}"
    return f"{name} must be {must_be}, and not {given[-1][:_MOST_CHARS]!r}"


def _words_for(field: FieldDefinition) -> str | None:
    """Such as ``a whole number from 1 to 64 (conversations at once)``; None where there are no words for it."""
    kinds = [kind for kind in (field.args if field.is_union else (field.annotation,)) if kind is not NoneType]
    if len(kinds) != 1:
        return None
    if get_origin(kinds[0]) is Literal:
        return f"one of {', '.join(map(str, get_args(kinds[0])))}"
    words, told = _KINDS.get(kinds[0]), field.kwarg_definition
    if words is None or not isinstance(told, KwargDefinition):
        return words
    if told.ge is not None and told.le is not None:
        words += f" from {told.ge:.10g} to {told.le:.10g}"  # 10.0 as 10
    return f"{words} ({told.description})" if told.description else words
