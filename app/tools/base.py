"""What a tool is: ``@tool`` makes one of a function, ToolSpec says what it is like, Confinement where it runs.

Imports the standard library only: the worker process, which runs what a model asked for, loads this file too. Knows
neither who calls nor whether they may; importing it imports no tool.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Generic, Literal, ParamSpec, TypeVar, get_type_hints

from app.tools.private_names import private_name

Risk = Literal["read", "write", "destructive", "net", "command"]
"""What a tool can do to the world: ``read`` looks at files below the roots, ``write`` makes and changes them, but
overwrites none unless ``may_destroy``, ``destructive`` always takes something away, ``net`` talks to other machines,
``command`` starts programs."""

WorkerKind = Literal["fs_read", "fs_write", "net", "command"]
"""What a worker is able to do; a kind has either files or network, so nothing that was read can be sent away."""

_KINDS: Mapping[Risk, WorkerKind] = {
    "read": "fs_read",
    "write": "fs_write",
    "destructive": "fs_write",
    "net": "net",
    "command": "command",
}

AbsolutePath = Annotated[str, "path"]
"""The type of an argument that names a file or folder: policy judges it before any worker sees it."""
ChangedPath = Annotated[str, "path", "changed"]
"""An AbsolutePath whose file or folder the tool makes, changes or takes away."""

SERVED = "mcp:"
"""How the entry of an MCP server's tool begins; what follows is the server's name."""

PATH_BYTES, NAME_BYTES = 4096, 255
"""Linux's PATH_MAX and NAME_MAX, in bytes."""

ANSWER_BYTES = 256 * 1024
"""A worker's whole answer, as JSON in UTF-8."""

_JSON_TYPES: Mapping[Any, Mapping[str, Any]] = {
    str: {"type": "string"},
    AbsolutePath: {"type": "string"},
    ChangedPath: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    list[str]: {"type": "array", "items": {"type": "string"}},
    list[str] | str: {"type": ["array", "string"], "items": {"type": "string"}},
}

P = ParamSpec("P")
R = TypeVar("R")


class ToolProblem(Exception):  # noqa: N818 # an answer to the model, not a fault of ours
    """Why a call cannot be done, in a sentence for the model that says what to try; ``code`` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one call may take."""

    read_bytes: int = 256 * 1024
    """Bytes of a file that are read."""
    write_bytes: int = 1024 * 1024
    """Bytes that one call may write."""
    results: int = 100
    """Entries of a listing."""
    call_s: float = 10.0
    """Seconds from the request to the answer; then the worker is killed."""


@dataclass(frozen=True, slots=True)
class Protected:
    """A path that is never touched, even below a root."""

    path: PurePosixPath
    reach: Literal["exact", "tree"]
    """``exact``: this path alone. ``tree``: this path and all below it."""

    def covers(self, path: PurePosixPath) -> bool:
        """True when ``path``, absolute and without ``..``, is protected by this entry."""
        return path == self.path or (self.reach == "tree" and self.path in path.parents)


@dataclass(frozen=True, slots=True)
class Confinement:
    """All that a worker may reach. Workers are made ahead for one Confinement and never serve another."""

    kind: WorkerKind
    read: tuple[PurePosixPath, ...] = ()
    write: tuple[PurePosixPath, ...] = ()
    protected: tuple[Protected, ...] = ()
    limits: Limits = Limits()
    allow_private: tuple[str, ...] = ()
    """Networks, such as ``10.0.0.0/8``, that may be contacted though they are not public."""
    ports: tuple[int, ...] = (80, 443)
    """The TCP ports that may be contacted."""
    foreign: bool = False
    """Whether code runs there that AirLab did not write: it asks nobody before it opens a private name, so the kernel
    closes those too."""
    may_destroy: bool = False
    """Whether this one call may overwrite or take away what is there. Comes with the call, never from here: a worker
    waits for its call without it, and ``to_json`` leaves it out."""

    def root_of(self, path: PurePosixPath) -> PurePosixPath | None:
        """The innermost root that holds ``path``, compared name by name: ``/a-b`` is not below ``/a``."""
        holding = [root for root in (*self.read, *self.write) if path == root or root in path.parents]
        return max(holding, key=lambda root: len(root.parts), default=None)

    def is_protected(self, path: PurePosixPath) -> bool:
        """True when no tool may touch ``path``: it is listed, or has a private name in it."""
        return any(entry.covers(path) for entry in self.protected) or private_name(path) is not None

    def is_writable(self, path: PurePosixPath) -> bool:
        """True when tools may change things at ``path``: the innermost root that holds it is a writable one."""
        return self.root_of(path) in self.write

    def must_stay(self, path: PurePosixPath) -> PurePosixPath | None:
        """The root or protected place at or below ``path`` that would go with it, were it moved or deleted."""
        places = (*self.read, *self.write, *(entry.path for entry in self.protected))
        return next((place for place in places if place == path or path in place.parents), None)

    @property
    def roots_in_words(self) -> str:
        """Where a model may look, for the end of a sentence."""
        return _in_words((*self.write, *self.read))

    @property
    def writable_in_words(self) -> str:
        """Where a model may change things, for the end of a sentence."""
        return _in_words(self.write)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal Confinement."""
        return {
            "kind": self.kind,
            "read": [str(path) for path in self.read],
            "write": [str(path) for path in self.write],
            "protected": [[str(entry.path), entry.reach] for entry in self.protected],
            "limits": asdict(self.limits),
            "allow_private": list(self.allow_private),
            "ports": list(self.ports),
            "foreign": self.foreign,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Confinement:
        """The Confinement that ``to_json`` wrote."""
        return cls(
            value["kind"],
            tuple(map(PurePosixPath, value["read"])),
            tuple(map(PurePosixPath, value["write"])),
            tuple(Protected(PurePosixPath(path), reach) for path, reach in value["protected"]),
            Limits(**value["limits"]),
            tuple(value["allow_private"]),
            tuple(value["ports"]),
            value["foreign"],
        )


def _in_words(roots: tuple[PurePosixPath, ...]) -> str:
    return " or ".join(str(root) for root in dict.fromkeys(roots)) or "no folder at all"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What model, policy and pages know of a tool."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments: an object that takes nothing else."""
    risk: Risk
    paths: tuple[str, ...]
    """The arguments that name files or folders."""
    entry: str
    """Where a worker finds its code: ``module:name``."""
    changes: tuple[str, ...] = ()
    """Those of ``paths`` that it makes, changes or takes away."""
    cache_s: float | None = None
    """Seconds for which a result may be given again to the same arguments; None: never."""
    timeout_s: float | None = None
    """Its own limit from the request to the answer, in seconds; None: the policy's."""
    settings: str = ""
    """What the manifest says of a tool that it declares, as JSON; empty for a built-in one."""
    secrets: tuple[str, ...] = ()
    """Environment variables whose values go with each call: looked up then, and kept nowhere."""
    runs_in: WorkerKind | None = None
    """Its kind of worker where the risk does not say it."""

    @property
    def kind(self) -> WorkerKind:
        """The kind of worker that runs it."""
        return self.runs_in or _KINDS[self.risk]

    @property
    def is_declared(self) -> bool:
        """True where the manifest declares it: its schema was written by somebody else."""
        return bool(self.settings)

    @property
    def is_served(self) -> bool:
        """True where an MCP server runs it, outside every wall of AirLab's."""
        return self.entry.startswith(SERVED)


@dataclass(frozen=True, slots=True)
class Tool(Generic[P, R]):
    """A function and its spec; called, it is the function."""

    spec: ToolSpec
    function: Callable[P, R]
    takes_confinement: bool

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        return self.function(*args, **kwargs)

    def run(self, arguments: Mapping[str, Any], inside: Confinement) -> R:
        """Call it with a model's arguments; what the model cannot say, where it runs, is added."""
        more: dict[str, Any] = {"inside": inside} if self.takes_confinement else {}
        return self.function(**arguments, **more)  # type: ignore[call-arg] # checked against the schema by the gate


def tool(
    *, risk: Risk, cache_s: float | None = None, timeout_s: float | None = None
) -> Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a tool of a function: its name, signature and docstring are what the model sees.

    Parameters are str, AbsolutePath, ChangedPath, bool, int, float, list[str] or list[str] | str, each explained in the
    docstring as ``name: text``. One named ``inside``, of type Confinement, is filled in by the worker.

    Args:
        risk: What it can do to the world.
        cache_s: See ``ToolSpec``.
        timeout_s: See ``ToolSpec``.

    Raises:
        TypeError: A parameter has another type or no explanation.
    """

    def make(function: Callable[P, R]) -> Tool[P, R]:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
        shown = {name: parameter for name, parameter in parameters.items() if name != "inside"}
        description, texts = _read_docstring(inspect.getdoc(function) or "", tuple(shown))
        for name in shown:
            if name not in texts or hints[name] not in _JSON_TYPES:
                raise TypeError(f"{function.__name__}: {name} needs a type a model can write and a `{name}: text`")
        properties = {name: {**_JSON_TYPES[hints[name]], "description": texts[name]} for name in shown}
        for name, parameter in shown.items():
            if parameter.default is not inspect.Parameter.empty:
                properties[name]["default"] = parameter.default
        schema = {
            "type": "object",
            "properties": properties,
            "required": [name for name in shown if "default" not in properties[name]],
            "additionalProperties": False,
        }
        changes = tuple(name for name in shown if hints[name] == ChangedPath)
        paths = tuple(name for name in shown if hints[name] == AbsolutePath or name in changes)
        entry = f"{function.__module__}:{function.__name__}"
        spec = ToolSpec(function.__name__, description, schema, risk, paths, entry, changes, cache_s, timeout_s)
        return Tool(spec, function, "inside" in parameters)

    return make


def runner(function: Callable[..., R]) -> Tool[..., R]:
    """Make of a function what runs every declared tool of one kind.

    It takes ``arguments``, a model's; ``settings``, the manifest's; ``secrets``, values by the names of environment
    variables; and ``inside``. The risk is that of each declared tool, not of the function.
    """
    entry = f"{function.__module__}:{function.__name__}"
    return Tool(ToolSpec(function.__name__, inspect.getdoc(function) or "", {}, "read", (), entry), function, True)


def _read_docstring(text: str, names: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """The text before the first ``name: ``, and what follows each one."""
    words = " ".join(text.split())
    if not names:
        return words, {}
    first, *rest = re.split(rf"\b({'|'.join(names)}): ", words)
    return first.strip(), {name: said.strip() for name, said in zip(rest[::2], rest[1::2], strict=True)}


def load(entry: str) -> Tool[..., object]:
    """Import the tool at ``module:name``.

    Raises:
        TypeError: There is something else.
    """
    module, _, name = entry.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, Tool):
        raise TypeError(f"{entry} is no tool; put @tool over the function {name}")
    return found


def discover(package: str = "app.tools.builtin") -> dict[str, ToolSpec]:
    """The specs of all tools in a package, by name: each of its files holds one, named like the file.

    Raises:
        TypeError: A file holds no tool of its name.
    """
    names = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    return {name: load(f"{package}.{name}:{name}").spec for name in sorted(names)}


def parse_path(text: str) -> PurePosixPath:
    """Read a path that a model wrote: absolute, and the same for everybody who looks at it.

    Raises:
        ToolProblem: ``invalid_path``, with what to write instead.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise ToolProblem("invalid_path", "The path is not valid Unicode. Write it as plain text.") from None
    names = [name for name in text.split("/") if name]
    if not text.startswith("/"):
        why = f'"{text:.80}" is not absolute. Write the whole path, beginning with "/"'
    elif len(raw) > PATH_BYTES or any(len(name.encode()) > NAME_BYTES for name in names):
        why = f"The path is too long: {PATH_BYTES} bytes in all, {NAME_BYTES} for each name, are allowed"
    elif re.search(r"[\x00-\x1f\x7f]", text):
        why = "The path holds a control character. Leave it out"
    elif ".." in names:
        why = 'The path holds "..". Write the path that you mean, without it'
    elif any(name != name.rstrip(" .") for name in names):
        why = "A name in the path ends with a dot or a space. Leave it out"
    else:
        return PurePosixPath("/", *names)
    raise ToolProblem("invalid_path", f"{why}.")
