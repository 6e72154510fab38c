"""``airlab tools call`` and ``airlab audit``: they ask the running AirLab over HTTP, like any other client."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from app.cli.approvals import answer
from app.cli.main import DONE, FAILED
from app.cli.remote import connected, read
from app.client.stream import read_events
from app.devices.ask import printable
from app.errors import AirLabError, ToolNotFoundError
from app.manifest.problems import nearest
from app.units import format_duration

_WORDS = {"true": True, "false": False}


def call(options: argparse.Namespace) -> int:
    """Call a tool; a call that needs a permission asks for it on the terminal. 1 unless the tool did what it should."""
    with connected(options) as client:
        arguments = _arguments(_parameters(client, options.name), options.arguments)
        asks = sys.stdin.isatty()
        result = _called(client, options.name, {"arguments": arguments, "approvals": asks, "stream": True})
    if options.json:
        print(json.dumps(result))
    elif result["status"] == "ok":
        print(printable_lines(json.dumps(result["result"], indent=2, ensure_ascii=False)))
    else:
        print(f"{result['status']}: {printable_lines(result['result']['error'])}", file=sys.stderr)
    return DONE if result["status"] == "ok" else FAILED


def audit(options: argparse.Namespace) -> int:
    """Print the last tool calls, a line each."""
    wanted = {"limit": options.limit, "tool": options.tool, "session": options.session}
    with connected(options) as client:
        params = {name: value for name, value in wanted.items() if value is not None}
        entries = read(client.get("/audit", params=params))["entries"]
    if options.json:
        print(json.dumps(entries))
        return DONE
    for entry in entries:
        took = "" if entry["duration_s"] is None else f" after {format_duration(entry['duration_s'])}"
        allowed = f", allowed by {entry['approved_by']}" if entry["approved_by"] else ""
        told = f"{entry['actor']} {entry['tool']} {entry['arguments']}: {entry['verdict']}{allowed}, {entry['status']}"
        print(f"{entry['at']} {printable(told)}{took}")
    return DONE


def _parameters(client: httpx.Client, name: str) -> Mapping[str, Any]:
    """The JSON schemas of what a tool takes, by name."""
    body = read(client.get("/tools"))
    tools = {tool["name"]: tool for tool in body["tools"]}
    if body["closed"]:
        raise AirLabError(body["closed"])
    if name not in tools:
        meant = nearest(name, tuple(tools))
        hint = f"; did you mean {meant}?" if meant else ""
        raise ToolNotFoundError(f"no tool {name!r} is in force{hint}; there are {', '.join(tools) or 'none'}")
    properties: Mapping[str, Any] = tools[name]["parameters"].get("properties", {})
    return properties


def _arguments(parameters: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    """What stands on the command line as the tool takes it; what does not fit is left to the tool to answer."""
    given: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise AirLabError(f"{pair!r} is no KEY=VALUE; this tool takes {', '.join(parameters) or 'nothing'}")
        given.setdefault(name, []).append(text)
    return {name: _value(parameters.get(name, {}), texts) for name, texts in given.items()}


def _value(schema: Mapping[str, Any], texts: list[str]) -> Any:
    kinds = schema.get("type", "string")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if len(texts) > 1 or ("array" in kinds and "string" not in kinds):
        return texts
    [text] = texts
    if "string" in kinds:
        return text
    try:
        return _WORDS[text.lower()] if "boolean" in kinds and text.lower() in _WORDS else json.loads(text)
    except ValueError:
        return text


def _called(client: httpx.Client, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The result of a call, once whatever it waited for was answered."""
    with client.stream("POST", f"/tools/{quote(name, safe='')}/call", json=body) as response:
        if response.is_error:
            response.read()
            read(response)
        for event, data in read_events(response.iter_bytes()):
            if event == "result":
                return data
            # Where its time ran out just now, the result says so.
            answer(client, data)
    raise AirLabError("AirLab broke off before the call had ended")


def printable_lines(text: str) -> str:
    """Text with its lines, without what could steer a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\u{ord(char):04x}" for char in text)
