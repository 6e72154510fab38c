"""Makes ToolSpecs of the tools that the manifest declares, or says what is wrong with them. Pure.

What such a tool does is in its ``settings``, which go to a worker with each call; the code is one function of ours for
all tools of a kind. Knows MCP servers only as sections: what they offer is known once they answer (``mcp.py``).
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

from app.manifest.tool_sections import (
    CommandToolSection,
    DeclaredSection,
    DeclaredTool,
    EnvSection,
    HttpToolSection,
    McpServerSection,
    PythonToolSection,
)
from app.tools.base import ToolSpec
from app.tools.schemas import schema_problem
from app.tools.worker.templates import names_within

HTTP = "app.tools.worker.http_call:call_http"
COMMAND = "app.tools.worker.command_call:run_command"
PYTHON = "app.tools.worker.python_call:call_python"
RUNNERS = (HTTP, COMMAND, PYTHON)
"""What every worker has imported for declared tools."""

_SCALARS = {"string", "integer", "number", "boolean"}
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[^\]]+\]|[^/:?]+)(?::(?P<port>[0-9]+))?(?P<path>/[^?]*)?(?:\?(?P<search>.*))?"
)

_SYSTEM = ("/usr/", "/bin/", "/sbin/")
"""Where programs have to be: a worker that runs one sees no other."""

Place = tuple[str | int, ...]


Find = Callable[[str], str | None]


def _installed(program: str) -> str | None:
    return shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


Read = Callable[[str], str]


def _nothing(file: str) -> str:
    raise FileNotFoundError(2, "no such file", file)


class WrongToolError(Exception):
    """A declaration that cannot work."""

    def __init__(self, place: Place, message: str, fix: str) -> None:
        """Keep where below the tool's name it is, what is wrong there, and what to do."""
        super().__init__(message)
        self.place, self.message, self.fix = place, message, fix


def spec_of(
    name: str, section: DeclaredTool, *, taken: Collection[str] = (), find: Find = _installed, read: Read = _nothing
) -> ToolSpec | None:
    """The tool that a section declares; None for an MCP server, which says itself what it has.

    Args:
        name: Its name.
        section: What the manifest says of it.
        taken: Names that it must not have.
        find: Tells where a program is.
        read: Reads a file below ``tools/``. It may raise OSError, or ValueError with words of its own.

    Raises:
        WrongToolError: It cannot work as it is written.
    """
    if "__" in name:
        fix = "write it with a single underscore"
        raise WrongToolError((), "holds `__`, which stands between an MCP server's name and its tool's", fix)
    if name in taken:
        raise WrongToolError((), "is the name of a built-in tool", "choose another name")
    if isinstance(section, McpServerSection):
        return None
    parameters = _parameters(section)
    if isinstance(section, CommandToolSection):
        return _command(name, section, parameters, find)
    if isinstance(section, PythonToolSection):
        return _python(name, section, parameters, read)
    return _http(name, section, parameters)


def _parameters(section: DeclaredSection) -> dict[str, Any]:
    """The schema, which takes nothing that it does not name unless it says otherwise."""
    parameters = {"type": "object", "properties": {}, "additionalProperties": False, **section.parameters}
    problem = schema_problem(parameters)
    if problem is not None:
        fix = "write it like {properties: {NAME: {type: string}}, required: [NAME]}"
        raise WrongToolError(("parameters",), problem, fix)
    return parameters


def _http(name: str, section: HttpToolSection, parameters: dict[str, Any]) -> ToolSpec:
    address = _ADDRESS.fullmatch(section.url)
    if address is None or not 0 < int(address["port"] or 1) < 65536:
        raise WrongToolError(("url",), "is no address that can be asked", "write it like https://example.org/{name}")
    path, search = address["path"] or "/", address["search"] or ""
    _check(("url",), path + search, parameters, always=True)
    for key, value in section.query.items():
        _check(("query", key), value, parameters)
    _check(("body",), section.body, parameters, scalar=False)
    settings = {
        "method": section.method,
        "scheme": address["scheme"],
        "host": address["host"].strip("[]").lower(),
        "port": int(address["port"] or (443 if address["scheme"] == "https" else 80)),
        "path": path,
        "search": search,
        "query": section.query,
        "body": section.body,
        "headers": {key: _header(value) for key, value in section.headers.items()},
        "select": section.select,
        "max_body": section.max_body,
        "max_answer": section.max_answer,
        "defaults": _defaults(parameters),
    }
    secrets = {value.env for value in section.headers.values() if isinstance(value, EnvSection)}
    return ToolSpec(
        name,
        section.description,
        parameters,
        section.risk,
        (),
        HTTP,
        cache_s=section.cache,
        timeout_s=section.timeout,
        settings=json.dumps(settings, sort_keys=True),
        secrets=tuple(sorted(secrets)),
        runs_in="net",
    )


def _command(name: str, section: CommandToolSection, parameters: dict[str, Any], find: Find) -> ToolSpec:
    programs = [
        _program(place, program, find)
        for place, program in (
            (("argv", 0), section.argv[0]),
            *((("starts", index), each) for index, each in enumerate(section.starts)),
        )
    ]
    for index, part in enumerate(section.argv[1:], 1):
        _check(("argv", index), part, parameters, always=not re.fullmatch(r"\{[^{}]+\}", part))
    _check_texts("paths", section.paths, parameters)
    _check_texts("changes", section.changes, parameters)
    _check_texts("options", section.options, parameters)
    settings = {
        "argv": [programs[0], *section.argv[1:]],
        "programs": programs,
        "options": section.options,
        "changes": section.changes,
        "max_answer": section.max_answer,
        "defaults": _defaults(parameters),
    }
    return ToolSpec(
        name,
        section.description,
        parameters,
        section.risk,
        tuple(dict.fromkeys((*section.paths, *section.changes))),
        COMMAND,
        tuple(section.changes),
        section.cache,
        section.timeout,
        json.dumps(settings, sort_keys=True),
        runs_in="command",
    )


def _program(place: Place, name: str, find: Find) -> str:
    found = find(name)
    if found is None or not found.startswith("/"):
        raise WrongToolError(place, "is no program that is installed here", "install it, or write its whole path")
    if not found.startswith(_SYSTEM):
        fix = f"install it below {' or '.join(_SYSTEM)}"
        raise WrongToolError(place, f"is {found}, where tools see no programs", fix)
    return found


def _python(name: str, section: PythonToolSection, parameters: dict[str, Any], read: Read) -> ToolSpec:
    module, _, function = section.entry.partition(":")
    file = "/".join(name for name in module.split(".") if name) + ".py"
    _check_texts("paths", section.paths, parameters)
    try:
        source = read(file)
        functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else f"{exc}"
        raise WrongToolError(("entry",), f"tools/{file} cannot be used: {why}", "put the function there") from None
    if function not in functions:
        fix = f"write one of: {', '.join(functions)}" if functions else f"define it there: def {function}(...)"
        raise WrongToolError(("entry",), f"tools/{file} has no function {function}", fix)
    settings = {
        "file": f"tools/{file}",
        "source": source,
        "function": function,
        "max_answer": section.max_answer,
        "defaults": _defaults(parameters),
    }
    return ToolSpec(
        name,
        section.description,
        parameters,
        "read" if section.access == "read" else "destructive",
        tuple(section.paths),
        PYTHON,
        tuple(section.paths) if section.access == "write" else (),
        section.cache,
        section.timeout,
        json.dumps(settings, sort_keys=True),
        runs_in="fs_read" if section.access == "read" else "fs_write",
    )


def _check_texts(key: str, named: list[str], parameters: Mapping[str, Any]) -> None:
    for index, each in enumerate(named):
        if parameters["properties"].get(each, {}).get("type") != "string":
            fix = f"add `{each}: {{type: string}}` below `parameters.properties`"
            raise WrongToolError((key, index), "is no parameter of the type string", fix)


def _header(value: str | EnvSection) -> str | dict[str, str]:
    return value if isinstance(value, str) else {"env": value.env, "prefix": value.prefix}


def _defaults(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each["default"] for name, each in parameters["properties"].items() if "default" in each}


def _check(
    place: Place, template: Any, parameters: Mapping[str, Any], *, always: bool = False, scalar: bool = True
) -> None:
    """Refuse placeholders that nothing, or not enough, is known of."""
    properties = parameters["properties"]
    try:
        names = list(names_within(template))
    except ValueError as exc:
        raise WrongToolError(place, str(exc), "write {name} for an argument, {{ and }} for braces") from None
    for name in names:
        if name not in properties:
            fix = f"add `{name}` below `parameters.properties`, or write {{{{{name}}}}} for the text itself"
            raise WrongToolError(place, f"names {{{name}}}, which is no parameter", fix)
        if scalar and not _is_scalar(properties[name]):
            fix = f"give `{name}` the type string, integer, number or boolean"
            raise WrongToolError(place, f"names {{{name}}}, which is more than a text or a number", fix)
        if always and name not in parameters.get("required", ()) and "default" not in properties[name]:
            fix = f"add `{name}` to `parameters.required`, or give it a `default`"
            raise WrongToolError(place, f"names {{{name}}}, which may be missing", fix)


def _is_scalar(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type", "string" if "enum" in schema else None)
    return {kinds} <= _SCALARS if isinstance(kinds, str) else bool(kinds) and set(kinds or ()) <= _SCALARS
