"""What ``airlab.yaml`` says of a kind of host: how it is known, and what models may take of it.

Every key is an attribute here, and its docstring is its documentation. Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from app.manifest.values import Section, SizeBytes

Isa = Literal[
    "sse4_2", "avx", "f16c", "fma", "bmi2", "avx2", "avx_vnni",
    "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16",
    "neon", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
]  # fmt: skip
"""Instruction sets that engines care for, as Linux names them in /proc/cpuinfo."""


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


Match = Annotated[
    Annotated[Literal["any"], Tag("any")] | Annotated[MatchSection, Tag("MatchSection")], Discriminator(_match_kind)
]


class MemorySection(Section):
    """What all models together may take on one kind of host; never more than is free."""

    vram: Annotated[SizeBytes, Field(ge=1, le=2**50)] | None = None
    """Memory of each GPU; where absent, all that is free."""
    ram: Annotated[SizeBytes, Field(ge=1, le=2**50)] | None = None
    """The host's memory; where absent, all that is free."""
