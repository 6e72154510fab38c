"""The whole shape of ``airlab.yaml``: every key is an attribute here, and its docstring is its documentation.

Pure: nothing here reads a file or looks at the host. What two keys must agree on is checked in ``crosscheck.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from app import units

ModelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""A model's name in the YAML, in URLs and in file names: letters, digits, dot, dash, underscore."""

Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=128)]
"""Another name that clients may ask for; slashes and colons are fine here."""


def _written(read: Callable[[str], float]) -> BeforeValidator:
    """A quantity may be a plain number or text with a unit."""

    def convert(value: Any) -> Any:
        return read(value) if isinstance(value, str) else value

    return BeforeValidator(convert)


def _layers(value: Any) -> Any:
    return -1 if value == "all" else value


def _inside_models(value: str) -> str:
    parts = value.split("/")
    if any(part.startswith(".") or not part for part in parts) or "\\" in value or not value.endswith(".gguf"):
        raise ValueError("must be a .gguf file below models/, written with forward slashes, without . or ..")
    return value


def _folder_inside_models(value: str) -> str:
    first, *parts = value.split("/")
    if first != "models" or not parts or any(part.startswith(".") or not part for part in parts) or "\\" in value:
        raise ValueError("must be a folder below models/, such as models/custom, written with forward slashes")
    return value


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


_SERVER_URL = re.compile(
    r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::(?P<port>[0-9]{1,5}))?(?:/[A-Za-z0-9._~/-]*)?"
)


def _server_url(value: str) -> str:
    match = _SERVER_URL.fullmatch(value)
    if match is None or not 1 <= int(match["port"] or 80) <= 65535:
        raise ValueError("is no address such as http://ray-head:8000/v1: no user, no query, plain ASCII")
    return value


def _sendable(value: str) -> str:
    if value.lower() in _FORBIDDEN_HEADERS:
        raise ValueError("is a header that AirLab sets itself; leave it out")
    return value


def _not_ours(value: str) -> str:
    if value.upper().startswith("AIRLAB_"):
        raise ValueError("belongs to AirLab itself, and is given to nobody else; use another environment variable")
    return value


ToolName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
"""A tool's name as models call it."""
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$", max_length=64), AfterValidator(_sendable)]
Argument = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128), AfterValidator(_not_ours)]

Tokens = Annotated[int, _written(units.parse_tokens)]
ContextLength = Annotated[Tokens, Field(ge=512, le=1_048_576)]


AUTO_TAGS = ("auto", "number")
"""What a setting may be that is a number or left to AirLab."""


def _auto_kind(value: Any) -> str:
    return AUTO_TAGS[value != "auto"]


AutoContextLength = Annotated[
    Annotated[ContextLength, Tag("number")] | Annotated[Literal["auto"], Tag("auto")], Discriminator(_auto_kind)
]
DurationS = Annotated[float, _written(units.parse_duration_s)]
SizeBytes = Annotated[int, _written(units.parse_bytes)]
GpuLayers = Annotated[int, BeforeValidator(_layers), Field(ge=-1, le=1000)]
WeightsName = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_inside_models)]
Parallel = Annotated[int, Field(ge=1, le=64)]
AutoParallel = Annotated[
    Annotated[Parallel, Tag("number")] | Annotated[Literal["auto"], Tag("auto")], Discriminator(_auto_kind)
]
MaxLoaded = Annotated[
    Annotated[Annotated[int, Field(ge=1, le=32)], Tag("number")] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(_auto_kind),
]
Threads = Annotated[int, Field(ge=1, le=1024)]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
Kind = Literal["chat", "embedding"]
ToolMode = Literal["auto", "native", "guided"]
Numa = Literal["off", "distribute", "per-node"]
Isa = Literal[
    "sse4_2", "avx", "f16c", "fma", "bmi2", "avx2", "avx_vnni",
    "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16",
    "neon", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
]  # fmt: skip
"""Instruction sets that engines care for, as Linux names them in /proc/cpuinfo."""
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)]
PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
PrivateNetwork = Annotated[str, Field(max_length=64), AfterValidator(_private_network)]


class Section(BaseModel):
    """A mapping of the YAML: unknown keys are refused, types are not bent, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class DefaultsSection(Section):
    """What a request to /chat gets where it says nothing."""

    system_prompt: Annotated[str, Field(max_length=32_768)] = "You are a helpful assistant."
    """Put before every conversation."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """Randomness of the choice of words, 0 for none."""
    max_tokens: Annotated[Tokens, Field(ge=1, le=1_048_576)] = 2048
    """Longest answer, in tokens."""
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Only the likeliest words that together reach this probability are considered."""
    top_k: Annotated[int, Field(ge=0, le=1000)] = 40
    """Only so many of the likeliest words are considered; 0 for all."""
    repeat_penalty: Annotated[float, Field(ge=0, le=10)] = 1.1
    """Makes words that have just been used less likely; 1 for not at all."""


class ChatSection(Section):
    """How /chat keeps conversations and runs tools."""

    max_conversation_tokens: Annotated[Tokens, Field(ge=128, le=1_048_576)] = 3000
    """History that the model sees, in tokens; older turns are left out of its prompt, never out of the store."""
    max_tool_iterations: Annotated[int, Field(ge=1, le=20)] = 5
    """Rounds of tool calls in one turn."""
    tool_mode: ToolMode = "auto"
    """native: by the model's own chat template; guided: by a grammar, for any model; auto: native where it can."""


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
    reload_guard: bool = False
    """Ask before an edit comes into force that removes most models or allows tools more; POST /manifest/reload says
    how to confirm."""


class ServerSection(Section):
    """Where AirLab listens. Read at start only."""

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    """Address to listen on. Anything but loopback needs both keys set (AIRLAB_API_KEY, AIRLAB_ADMIN_KEY)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """TCP port; 0 takes any free one."""
    hosts: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$", max_length=253)]] = []
    """Further names under which clients may address this server (the Host header), besides IP addresses,
    localhost and this machine's own name."""
    cors_origins: list[Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+$", max_length=253)]] = []
    """Web pages of these origins may call AirLab from a browser, such as "http://localhost:3000"."""


class NativeEngineSection(Section):
    """llama-server as a child process: LLAMA_SERVER_PATH, else one on PATH, else the embedded engine."""

    kind: Literal["native"] = "native"
    """The engine's kind."""


def _image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        raise ValueError(
            "is no image; write NAME:TAG, NAME@sha256:DIGEST, or sha256:ID of an image that is on this machine"
        )
    return value


_IMAGE = re.compile(
    r"sha256:[0-9a-f]{64}"
    r"|(?:[a-z0-9.-]+(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
Image = Annotated[str, Field(max_length=512), AfterValidator(_image)]
CpuList = Annotated[str, Field(pattern=r"^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*$", max_length=256)]
"""Processors or NUMA nodes by the kernel's numbers, such as 0-13,28-41."""
GpuId = Annotated[str, Field(pattern=r"^([0-9]{1,2}|GPU-[0-9A-Fa-f-]{8,64})$")]


def _gpus_kind(value: Any) -> str:
    return "word" if isinstance(value, str) else "list"


class DockerEngineSection(Section):
    """llama-server in a container without a network, which sees its model's files and nothing else of the host."""

    kind: Literal["docker"]
    """The engine's kind."""
    image: Image
    """An image with llama-server on its PATH. It must be on this machine: AirLab never pulls one. A tag is resolved to
    the image's id at each start, and that id is what runs."""
    gpus: Annotated[
        Annotated[Literal["all", "none"], Tag("word")]
        | Annotated[list[GpuId], Field(min_length=1, max_length=16), Tag("list")],
        Discriminator(_gpus_kind),
    ] = "none"
    """NVIDIA GPUs that it may use: all, none, or a list of their numbers or UUIDs, such as ["0"]."""
    cpuset: CpuList | None = None
    """Processors that it may run on, such as 0-7; all where absent."""
    mems: CpuList | None = None
    """NUMA nodes whose memory it may use, such as 0; all where absent."""
    memory: Annotated[SizeBytes, Field(ge=64 * units.MIB, le=2**50)] | None = None
    """Most memory that it may take, its weights included; without it, whatever the host has."""
    pids: Annotated[int, Field(ge=16, le=32_768)] = 512
    """Most threads and processes in it."""
    fallback: Literal["native"] | None = None
    """native: where the container cannot be started, run llama-server as a child process, and say so."""

    @property
    def wants_gpu(self) -> bool:
        """Whether it asks for any GPU."""
        return self.gpus != "none"


EngineSection = Annotated[NativeEngineSection | DockerEngineSection, Field(discriminator="kind")]


class Tuning(Section):
    """How llama-server is run.

    The first that says something wins: N_GPU_LAYERS or the layers command, the model's ``on`` for the profile in force,
    the model itself, the profile, what suits the host.
    """

    n_gpu_layers: GpuLayers | None = None
    """Layers kept on the GPU: all (or -1), 0 for none, or a number."""
    n_threads: Threads | None = None
    """Processor threads for generation; by default the cores less one, shared among max_loaded models."""
    parallel: AutoParallel | None = None
    """Conversations served at once (slots), each with the whole context_length; auto: up to 4, as memory allows."""
    cache_type: CacheType | None = None
    """Data type of the KV cache; q8_0 halves it against f16."""
    numa: Numa | None = None
    """For hosts with several processors. distribute: spread threads and memory over all NUMA nodes; per-node: keep a
    model on the processors and the memory of one node, as long as its file fits there; off: neither."""


class MatchSection(Section):
    """Which hosts a profile is for. All rules that stand here must hold; what is not known of a host holds for none."""

    cpu: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Part of the processor's name, whatever its case."""
    sockets: Annotated[int, Field(ge=1, le=64)] | None = None
    """Exactly so many processors, as one can hold in the hand."""
    min_memory: Annotated[SizeBytes, Field(ge=1, le=2**50)] | None = None
    """Memory of the host, at least. Firmware keeps some of what was bought: write 240GiB for 256 GiB."""
    isa: Annotated[list[Isa], Field(min_length=1)] | None = None
    """Instruction sets that its processors must have."""
    gpu: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Part of a GPU's name, whatever its case. The rules for GPUs must all hold for one and the same."""
    min_vram: Annotated[SizeBytes, Field(ge=1, le=2**50)] | None = None
    """Memory of a GPU, at least. Drivers show a little less than is sold: write 15GiB for 16 GB."""
    min_compute_capability: Annotated[float, Field(ge=1, le=99)] | None = None
    """NVIDIA's compute capability of a GPU, at least: 7.5 for sm_75, 12.0 for sm_120."""

    @model_validator(mode="before")
    @classmethod
    def _is_no_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            # A TypeError would not become a problem with a line.
            raise ValueError("is neither any nor rules; write `any`, or rules such as `{gpu: Tesla T4}`")  # noqa: TRY004
        return value

    @model_validator(mode="after")
    def _says_something(self) -> MatchSection:
        if all(rule is None for _, rule in self):
            raise ValueError("names no rule; name one, or write `match: any` for every host")
        return self


def _match_kind(value: Any) -> str:
    return "any" if value == "any" else "MatchSection"


class MemorySection(Section):
    """What all models together may take on one kind of host; never more than is free."""

    vram: Annotated[SizeBytes, Field(ge=1, le=2**50)] | None = None
    """Memory of each GPU; where absent, all that is free."""
    ram: Annotated[SizeBytes, Field(ge=1, le=2**50)] | None = None
    """The host's memory; where absent, all that is free."""


class ProfileSection(Tuning):
    """What to do on one kind of host; the first profile that matches is taken."""

    match: Annotated[
        Annotated[Literal["any"], Tag("any")] | Annotated[MatchSection, Tag("MatchSection")],
        Discriminator(_match_kind),
    ] = "any"
    """Which hosts this profile is for: any, or rules that must all hold."""
    engine: EngineSection = NativeEngineSection()
    """What runs the models here."""
    max_loaded: MaxLoaded = 1
    """Models loaded at the same time, at most; auto: as many as memory allows."""
    memory: MemorySection = MemorySection()
    """What all models together may take here."""
    default_model: ModelKey | None = None
    """Replaces the manifest's default_model on this host."""


class RemoteSection(Section):
    """A model that another server runs: any that speaks OpenAI's protocol, such as another host's AirLab, or vLLM."""

    url: Annotated[str, Field(max_length=2048), AfterValidator(_server_url)]
    """Where that server listens, such as http://ray-head:8000/v1."""
    key_env: EnvName | None = None
    """Name of the environment variable that holds its key; read when AirLab starts, or this is edited."""
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """What that server calls the model; the key where absent."""


class OverrideSection(Tuning):
    """What is different for one model on one kind of host; wins over the model's own values and the profile's."""

    context_length: AutoContextLength | None = None
    """Context in tokens, for each conversation."""
    n_ctx: AutoContextLength | None = None
    """The same as context_length, by the engine's name for it; write one of the two."""

    @model_validator(mode="after")
    def _says_context_once(self) -> OverrideSection:
        if self.context_length is not None and self.n_ctx is not None:
            raise ValueError("says context_length and n_ctx, which are the same; write one of the two")
        return self


class ModelSection(Tuning):
    """One model. What it leaves out, the profile decides, and what that leaves out, the host."""

    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Its name for people; the key where absent."""
    filename: WeightsName | None = None
    """The GGUF file, below models/."""
    adapters: Annotated[list[WeightsName], Field(max_length=8)] = []
    """LoRA adapters laid over it, below models/."""
    description: str = ""
    """What it is good for, in a sentence."""
    context_length: AutoContextLength = 4096
    """Context in tokens, for each conversation; auto: as long as the model was trained for, as memory allows."""
    on: dict[ModelKey, OverrideSection] = {}
    """What is different on a host, by the name of its profile."""
    kind: Annotated[list[Kind], Field(min_length=1)] = ["chat"]
    """What it serves: chat, embedding, or both."""
    vram_estimate: str | None = None
    """How much memory to expect, in words."""
    recommended: bool = False
    """Shown first in menus."""
    usage: str | None = None
    """How to use it, in words."""
    hf_repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$", max_length=200)] | None = None
    """Where it comes from on the Hugging Face hub, as org/repo:quantisation."""
    download_url: Url | None = None
    """Where it can be downloaded from directly: https, or http from this network's own servers."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """SHA-256 that the file at download_url must have, in hexadecimal. Of a hub's files the hub says it itself."""
    remote: RemoteSection | None = None
    """The server that runs it, where that is another one; then nothing of it lies or runs here."""
    base_model: ModelKey | None = None
    """The model that this one was fine-tuned from."""
    training_data: str | None = None
    """What this one was fine-tuned on, in words."""
    is_finetuned: bool = False
    """True for a fine-tune; its file lies in models/custom/."""
    aliases: list[Alias] = []
    """Other names that clients may ask for."""
    idle_timeout: Annotated[DurationS, Field(ge=1, le=30 * 86400)] | None = None
    """Unload it after this long without a request, such as 15m; never where absent."""
    tool_mode: ToolMode | None = None
    """How it calls tools; chat.tool_mode where absent."""
    preload: bool = False
    """Load it when AirLab starts."""
    pin: bool = False
    """Never unload it to make room for another model."""


class FinetunedSection(Section):
    """Where fine-tunes are dropped: models and LoRA adapters in this folder appear by themselves."""

    directory: Annotated[
        str, Field(max_length=255, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_folder_inside_models)
    ] = "models/custom"
    """The folder, below models/. NAME.yaml beside NAME.gguf may describe it, with the keys of a model."""


class Manifest(Section):
    """The top level of airlab.yaml."""

    version: Literal[1]
    """Version of this format; always 1."""
    server: ServerSection = ServerSection()
    """Where AirLab listens."""
    defaults: DefaultsSection = DefaultsSection()
    """What a request to /chat gets where it says nothing."""
    chat: ChatSection = ChatSection()
    """How /chat keeps conversations and runs tools."""
    default_model: ModelKey
    """The model that serves when a request names none."""
    profiles: Annotated[dict[ModelKey, ProfileSection], Field(min_length=1)] = {"generic": ProfileSection()}
    """Kinds of host; the first that matches is taken, AIRLAB_PROFILE forces one."""
    models: Annotated[dict[ModelKey, ModelSection], Field(min_length=1)]
    """The models, by key."""
    finetuned: FinetunedSection = FinetunedSection()
    """Models that appear by themselves."""
    tools: ToolsSection = ToolsSection()
    """What models may be offered to call."""
    policy: PolicySection = PolicySection()
    """What tools may do."""
