"""What ``airlab.yaml`` says of tools: those that are declared there, and what tools may do.

Every key is an attribute here, and its docstring is its documentation. Pure.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from app import units
from app.manifest.values import (
    DurationS,
    EnvName,
    Section,
    SizeBytes,
    Url,
)

_PRIVATE = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),
        *("fc00::/7", "fe80::/10", "::1/128"),
    )
)
"""What is not reached unless it is listed. Not ``is_private``: its meaning changes between versions of Python."""


def _private_network(value: str) -> str:
    try:
        network = ip_network(value)
    except ValueError as exc:
        raise ValueError(f"is no network; write one like 192.168.1.0/24 ({exc})") from exc
    alike = [private for private in _PRIVATE if private.version == network.version]
    if not any(network.subnet_of(private) for private in alike):  # type: ignore[arg-type] # of one version
        listed = ", ".join(map(str, _PRIVATE))
        raise ValueError(f"is not private, and public addresses need no entry; private are {listed}")
    return str(network)


_FORBIDDEN_HEADERS = frozenset(
    {
        *("host", "connection", "content-length", "transfer-encoding", "accept-encoding", "te", "trailer", "upgrade"),
        *("expect", "content-type", "keep-alive", "proxy-connection"),
    }
)
_HTTP_TEMPLATE = re.compile(
    r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(?::[0-9]{1,5})?(?:/[!$-;=?-Z_a-z{}~%]*)?"
)


def _http_template(value: str) -> str:
    if not _HTTP_TEMPLATE.fullmatch(value):
        raise ValueError(
            "is no address such as https://example.org/things/{name}?day={day}: plain ASCII, no user, no fragment, and "
            "no argument before the path"
        )
    return value


def _sendable(value: str) -> str:
    if value.lower() in _FORBIDDEN_HEADERS:
        raise ValueError("is a header that AirLab sets itself; leave it out")
    return value


ToolName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
"""A tool's name as models call it."""
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$", max_length=64), AfterValidator(_sendable)]
Argument = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
PrivateNetwork = Annotated[str, Field(max_length=64), AfterValidator(_private_network)]


class EnvSection(Section):
    """A value that stands in AirLab's environment, so that no key stands in a file."""

    env: EnvName
    """Name of the environment variable; it is looked up at each call, and its value is shown nowhere."""
    prefix: Annotated[str, Field(max_length=64, pattern=r"^[\x20-\x7e]*$")] = ""
    """Put before the value, such as "Bearer "."""


def _value_kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "EnvSection"


HeaderValue = Annotated[
    Annotated[str, Field(max_length=1024, pattern=r"^[\x20-\x7e]*$"), Tag("text")]
    | Annotated[EnvSection, Tag("EnvSection")],
    Discriminator(_value_kind),
]


class DeclaredSection(Section):
    """What every tool of the manifest says of itself."""

    description: Annotated[str, Field(min_length=1, max_length=1024)]
    """What it does, for the model: it chooses by this."""
    parameters: dict[str, Any] = {}
    """JSON Schema of its arguments, an object; none by default."""
    timeout: Annotated[DurationS, Field(ge=0.1, le=600)] | None = None
    """Time for one call; policy.limits.call where absent."""
    max_answer: Annotated[SizeBytes, Field(ge=256, le=128 * units.KIB)] = 16 * units.KIB
    """Most of its answer that a model is given; the rest is cut off, and marked."""


class HttpToolSection(DeclaredSection):
    """A tool that asks a web server. ``{name}`` stands for an argument, ``{{`` for a brace."""

    kind: Literal["http"]
    """The tool's kind."""
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    """The request's method."""
    url: Annotated[str, Field(max_length=2048), AfterValidator(_http_template)]
    """The address; arguments may stand in its path and its query only."""
    query: Annotated[dict[str, str | int | float | bool], Field(max_length=64)] = {}
    """More pairs for the query; one whose argument is missing is left out."""
    body: dict[str, Any] | None = None
    """Sent as JSON; a text that is nothing but {name} becomes the argument, type and all."""
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=32)] = {}
    """Headers of the request: text, or {env: NAME}."""
    select: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Only this part of a JSON answer, such as current.0.temperature or /current/0/temperature."""
    max_body: Annotated[SizeBytes, Field(ge=1024, le=units.MIB)] = 64 * units.KIB
    """Most that is read of an answer."""
    risk: Literal["net", "destructive"] = "net"
    """destructive: it takes something away or cannot be taken back, so policy.destructive decides."""
    cache: Annotated[DurationS, Field(ge=1, le=86400)] | None = None
    """How long an answer is given again to the same arguments; never where absent."""


class McpServerSection(Section):
    """An MCP server, whose tools are offered as NAME__TOOL. It runs, or is asked, outside AirLab's walls."""

    kind: Literal["mcp"]
    """The tool's kind."""
    command: Annotated[list[Argument], Field(min_length=1, max_length=64)] | None = None
    """The program that is the server, with its arguments; AirLab starts it, and talks to it."""
    environment: Annotated[list[EnvName], Field(max_length=32)] = []
    """Environment variables that the program gets, by their names, beside PATH and HOME."""
    url: Url | None = None
    """Where the server listens (streamable HTTP), instead of a command."""
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=32)] = {}
    """Headers of every request to the url: text, or {env: NAME}."""
    allow: (
        Literal["all"] | Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=64)]
    ) = []
    """Its tools that are offered, by their names; none by default. all: also those that it may add later."""
    risk: Literal["net", "destructive"] = "destructive"
    """destructive: policy.destructive decides on each call; net: a call is allowed."""
    trust_hints: bool = False
    """Believe the server where it says that a tool only reads: such a tool has the risk net."""
    timeout: Annotated[DurationS, Field(ge=0.1, le=600)] | None = None
    """Time for one call; policy.limits.call where absent."""
    max_answer: Annotated[SizeBytes, Field(ge=256, le=128 * units.KIB)] = 16 * units.KIB
    """Most of an answer that a model is given; the rest is cut off, and marked."""

    @model_validator(mode="after")
    def _is_in_one_place(self) -> McpServerSection:
        if (self.command is None) == (self.url is None):
            raise ValueError("names no server, or two; write `command: [...]` or `url: ...`")
        if self.command is None and self.environment:
            raise ValueError("has an environment, but no command that could get it")
        if self.url is None and self.headers:
            raise ValueError("has headers, but no url that they could be sent to")
        return self


class CommandToolSection(DeclaredSection):
    """A tool that runs a program, without a shell, behind the kernel's wall. ``{name}`` stands for an argument.

    The program sees the roots of policy and the system's own programs, no network, and none of AirLab's environment.
    """

    kind: Literal["command"]
    """The tool's kind."""
    argv: Annotated[list[Argument], Field(min_length=1, max_length=64)]
    """The program and its arguments; a model's argument is one of them or a part of one, and is never split."""
    starts: Annotated[list[Argument], Field(max_length=16)] = []
    """Further programs that it may start, such as sh for a script; none by default."""
    paths: Annotated[list[str], Field(max_length=16)] = []
    """Those of its parameters that are paths: they must lie below the roots."""
    changes: Annotated[list[str], Field(max_length=16)] = []
    """Those of its parameters that are paths which it changes; policy.destructive decides on each call then."""
    options: Annotated[list[str], Field(max_length=16)] = []
    """Those of its parameters that may begin with a dash, and so become options of the program."""
    risk: Literal["command", "destructive"] = "command"
    """destructive: policy.destructive decides on each call."""
    cache: Annotated[DurationS, Field(ge=1, le=86400)] | None = None
    """How long an answer is given again to the same arguments, where it changes nothing; never where absent."""


class PythonToolSection(DeclaredSection):
    """A tool that is a Python function in a file of ``tools/``, beside this one. It runs behind the kernel's wall.

    It sees the roots of policy, no network, and of Python what AirLab's own tools use: most of the standard library.
    """

    kind: Literal["python"]
    """The tool's kind."""
    entry: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
    """The function, as file:function; orders:total is total in tools/orders.py, shop.orders:total one folder deeper."""
    access: Literal["read", "write"] = "read"
    """read: it sees files below the roots; write: it may change them, and policy.destructive decides on each call."""
    paths: Annotated[list[str], Field(max_length=16)] = []
    """Those of its parameters that are paths: they must lie below the roots."""
    cache: Annotated[DurationS, Field(ge=1, le=86400)] | None = None
    """How long an answer is given again to the same arguments, where it only reads; never where absent."""


DeclaredTool = Annotated[
    HttpToolSection | CommandToolSection | PythonToolSection | McpServerSection, Field(discriminator="kind")
]


class ToolsSection(Section):
    """What models may be offered to call: the built-in tools, and those declared here, each under a name of its own."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[ToolName, DeclaredTool]

    builtin: Literal["all"] | list[Annotated[str, Field(min_length=1, max_length=64)]] = "all"
    """The built-in tools: all, or a list of their names."""

    @property
    def declared(self) -> dict[str, DeclaredTool]:
        """The tools that the manifest declares, by name."""
        return self.__pydantic_extra__


class RootSection(Section):
    """A folder that tools may see."""

    path: PathText
    """The folder, relative to this file or absolute; made at start where it is missing."""
    access: Literal["read", "write"] = "write"
    """read: tools only look; write: they may change what is in it."""


class ToolLimitsSection(Section):
    """What a tool call may take."""

    read: Annotated[SizeBytes, Field(ge=1024, le=16 * units.MIB)] = 256 * units.KIB
    """Longest piece of a file that one call returns."""
    write: Annotated[SizeBytes, Field(ge=1024, le=64 * units.MIB)] = units.MIB
    """Most that one call writes into a file."""
    results: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Entries that one call returns."""
    call: Annotated[DurationS, Field(ge=0.1, le=600)] = 10.0
    """Time for one call."""
    turn: Annotated[DurationS, Field(ge=0.1, le=3600)] = 120.0
    """Time for all calls of one turn together, waits for a permission included."""


class ProtectedSection(Section):
    """A path that tools never touch, even below a root."""

    exact: PathText | None = None
    """This path alone, relative to this file or absolute. A Windows path counts under WSL2."""
    tree: PathText | None = None
    """This path and all below it, relative to this file or absolute. A Windows path counts under WSL2."""

    @model_validator(mode="after")
    def _names_one_path(self) -> ProtectedSection:
        if (self.exact is None) == (self.tree is None):
            raise ValueError("names no path, or two; write `{exact: PATH}` or `{tree: PATH}`")
        return self


class NetworkSection(Section):
    """Where tools that talk to other machines may go: public addresses, and what stands here."""

    allow_private: Annotated[list[PrivateNetwork], Field(max_length=64)] = []
    """Private networks that they may reach, such as 192.168.1.0/24; none by default, this machine among them."""
    ports: Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(max_length=64)] = [80, 443]
    """TCP ports that they may connect to."""


def _protected_kind(value: Any) -> str:
    return "default" if isinstance(value, str) else "list"


class PolicySection(Section):
    """What tools may do. Access begins with the roots; there is no other."""

    sandbox: Literal["required", "degraded"] = "required"
    """Where the kernel cannot confine tools: required offers none of those that need it, degraded offers those that
    only read, and says so loudly."""
    roots: Annotated[list[RootSection], Field(max_length=32)] = [RootSection(path="workspace")]
    """Folders that tools may see."""
    protected: Annotated[
        Annotated[Literal["default"], Tag("default")]
        | Annotated[list[ProtectedSection], Field(max_length=256), Tag("list")],
        Discriminator(_protected_kind),
    ] = "default"
    """Paths that tools never touch, even below a root; what is listed adds to the built-in list."""
    network: NetworkSection = NetworkSection()
    """Where tools that talk to other machines may go."""
    destructive: Literal["allow", "ask", "deny"] = "ask"
    """Overwriting, deleting, and what else cannot be taken back. ask: a person says yes to each call; where the request
    offers nobody to ask (approvals: true), that is a no."""
    limits: ToolLimitsSection = ToolLimitsSection()
    """What a tool call may take."""
    mcp_server: bool = False
    """Offer the tools at /mcp (Model Context Protocol), to agents elsewhere that hold a key. Each call is judged,
    confined and audited as any other."""
    reload_guard: bool = False
    """Ask before an edit comes into force that removes most models or allows tools more; POST /manifest/reload says
    how to confirm."""
