"""The values of ``airlab.yaml``: names, sizes, durations, addresses, each with what it may be.

Pure. A quantity may be a number or a text with a unit.
"""

from __future__ import annotations

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


EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128), AfterValidator(_not_ours)]
Tokens = Annotated[int, _written(units.parse_tokens)]
DurationS = Annotated[float, _written(units.parse_duration_s)]
SizeBytes = Annotated[int, _written(units.parse_bytes)]
GpuLayers = Annotated[int, BeforeValidator(_layers), Field(ge=-1, le=1000)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s@/?#]+([/?#]\S*)?$", max_length=2048)]
"""No name and password in it: it is shown in pages and logs."""


class Section(BaseModel):
    """A mapping of the YAML: unknown keys are refused, types are not bent, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
