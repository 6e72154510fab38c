"""The values of ``airlab.yaml``: names, sizes, durations, addresses, each with what it may be.

Pure. A quantity may be a number or a text with a unit.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app import units


def _written(read: Callable[[str], float]) -> BeforeValidator:
    """A quantity may be a plain number or text with a unit."""

    def convert(value: Any) -> Any:
        return read(value) if isinstance(value, str) else value

    return BeforeValidator(convert)


def _layers(value: Any) -> Any:
    return -1 if value == "all" else value


def _not_ours(value: str) -> str:
    if value.upper().startswith("AIRLAB_"):
        raise ValueError("belongs to AirLab itself, and is given to nobody else; use another environment variable")
    return value


_SERVER_URL = re.compile(
    r"https?://(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*))"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/[A-Za-z0-9._~/-]*)?"
)
_NAME_CHARS, _LABEL_CHARS = 253, 63
"""Of DNS; longer ones fail in a way of their own where they are looked up."""


def _server_url(value: str) -> str:
    match = _SERVER_URL.fullmatch(value)
    if match is None or not 1 <= int(match["port"] or 80) <= 65535:
        raise ValueError("is no address such as http://ray-head:8000/v1: no user, no query, plain ASCII")
    if match["ipv6"] is not None:
        _require_ipv6(match["ipv6"])
    else:
        _require_name(match["name"])
    return value


def _require_ipv6(host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as exc:
        raise ValueError(f"names no host: {exc}") from exc


def _require_name(host: str) -> None:
    labels = host.removesuffix(".").split(".")
    if len(host) > _NAME_CHARS or not all(1 <= len(label) <= _LABEL_CHARS for label in labels):
        limits = f"at most {_NAME_CHARS} letters, and 1 to {_LABEL_CHARS} in each part between its dots"
        raise ValueError(f"names no host: {limits}")


EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128), AfterValidator(_not_ours)]
Tokens = Annotated[int, _written(units.parse_tokens)]
DurationS = Annotated[float, _written(units.parse_duration_s)]
SizeBytes = Annotated[int, _written(units.parse_bytes)]
GpuLayers = Annotated[int, BeforeValidator(_layers), Field(ge=-1, le=1000)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s@/?#]+([/?#]\S*)?$", max_length=2048)]
"""No name and password in it: it is shown in pages and logs."""
ServerUrl = Annotated[str, Field(max_length=2048), AfterValidator(_server_url)]
"""Where a server of OpenAI's protocol listens."""


class Section(BaseModel):
    """A mapping of the YAML: unknown keys are refused, types are not bent, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
