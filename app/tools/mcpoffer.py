"""What an MCP server says, as what AirLab goes on with: its tools as specs, an answer as a result. Pure.

Hostile until checked: names, schemas and answers are bounded, and only tools that ``allow`` names are offered.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from app.errors import ToolError
from app.manifest.tool_sections import McpServerSection
from app.tools.base import SERVED, ToolSpec
from app.tools.schemas import schema_problem
from app.tools.worker.templates import cut

if TYPE_CHECKING:
    from mcp.types import CallToolResult, Tool

WHY_CHARACTERS = 300
"""Of a server's own words, so many are shown."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_DESCRIPTION_CHARACTERS, _NAMES_SHOWN = 1024, 20


def offered(server: str, section: McpServerSection, tools: list[Tool]) -> tuple[dict[str, ToolSpec], str]:
    """The specs of those tools that may be offered; and in words which are, and why the others are not."""
    specs: dict[str, ToolSpec] = {}
    left_out: list[str] = []
    for tool in tools:
        name = f"{server}__{tool.name}"
        problem = "not in `allow`" if section.allow != "all" and tool.name not in section.allow else None
        if problem is None and not _NAME.fullmatch(name):
            problem = "its name is none that a model can call"
        if problem is None and name in specs:
            problem = "a second one of that name"
        problem = problem or schema_problem(tool.input_schema)
        if problem is None:
            specs[name] = _spec(name, server, section, tool)
        else:
            left_out.append(f"{short(tool.name, 64)} ({problem})")
    names = ", ".join(specs) or "no tools"
    if section.allow == "all":
        names += "; allow: all, so whatever it adds is offered too"
    return specs, f"connected: {names}" + _listed_words("; left out: ", left_out)


def _spec(name: str, server: str, section: McpServerSection, tool: Tool) -> ToolSpec:
    reads = section.trust_hints and tool.annotations is not None and tool.annotations.read_only_hint is True
    settings = {"tool": tool.name, "max_answer": section.max_answer}
    return ToolSpec(
        name,
        short(tool.description or tool.title or f"The tool {tool.name} of {server}.", _DESCRIPTION_CHARACTERS),
        tool.input_schema,
        "net" if reads else section.risk,
        (),
        f"{SERVED}{server}",
        timeout_s=section.timeout,
        settings=json.dumps(settings),
        runs_in="net",
    )


def answer(result: CallToolResult, most_bytes: int) -> str:
    """What a model is given of a result.

    Raises:
        ToolError: ``tool_error``: the tool says that it failed.
    """
    texts = [block.text if block.type == "text" else f"[{block.type}, left out]" for block in result.content]
    text = "\n".join(texts)
    if result.is_error:
        raise ToolError(short(text, most_bytes) or "The tool failed, and does not say why.", code="tool_error")
    found = text if result.structured_content is None else result.structured_content
    return json.dumps(cut(found, most_bytes), ensure_ascii=False).encode(errors="replace").decode()


def short(said: object, characters: int = WHY_CHARACTERS) -> str:
    """A server's words as text that can be shown anywhere, cut to so many characters."""
    text = str(said).encode(errors="replace").decode()
    text = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
    return text if len(text) <= characters else f"{text[:characters]}..."


def _listed_words(before: str, names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{before}{', '.join(names[:_NAMES_SHOWN])}{more}" if names else ""
