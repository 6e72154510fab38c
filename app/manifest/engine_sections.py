"""What ``airlab.yaml`` says of engines: what runs llama-server on a kind of host, and within which walls.

Every key is an attribute here, and its docstring is its documentation. Pure.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from app import units
from app.manifest.values import Section, SizeBytes


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


class NativeEngineSection(Section):
    """llama-server as a child process: LLAMA_SERVER_PATH, else one on PATH, else the embedded engine."""

    kind: Literal["native"] = "native"
    """The engine's kind."""


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
    """NVIDIA GPUs that its models may use: all, none, or a list of their numbers or UUIDs, such as ["0"]. A model that
    fits on one gets that one alone."""
    cpuset: CpuList | None = None
    """Processors that it may run on, such as 0-7; all where absent. Where this or mems is written, no node is chosen by
    numa: per-node."""
    mems: CpuList | None = None
    """NUMA nodes whose memory it may use, such as 0; all where absent."""
    memory: Annotated[SizeBytes, Field(ge=64 * units.MIB, le=2**50)] | None = None
    """Most memory that it may take, its weights included; without it, whatever the host has. A model that needs more is
    not started."""
    pids: Annotated[int, Field(ge=16, le=32_768)] = 512
    """Most threads and processes in it."""
    fallback: Literal["native"] | None = None
    """native: where the container cannot be started, run llama-server as a child process, and say so."""

    @property
    def wants_gpu(self) -> bool:
        """Whether it asks for any GPU."""
        return self.gpus != "none"


EngineSection = Annotated[NativeEngineSection | DockerEngineSection, Field(discriminator="kind")]
