"""What a dialect is: a request told as one to /v1/chat/completions, and somebody who tells its answer.

``/v1/responses`` and ``/v1/messages`` are such dialects. llama-server knows one way in, and AirLab guards one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from app.api.blocks import Blocks, Step
from app.api.errors import Answer
from app.api.fields import ChatFields, Fraction, ImageUrl, Part, Tool
from app.api.keep_alive import KeepAlive
from app.api.media import Media
from app.chat.stream import Generated, Piece
from app.errors import BadRequestError

Name = Annotated[str, Meta(max_length=256)]
"""Of a type, a tool, a call."""


class Body(Struct, kw_only=True):
    """What the bodies of all dialects may hold."""

    model: str | None = None
    keep_alive: KeepAlive | None = None
    """AirLab's own field, as in every request below /v1."""
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Fraction | None = None


class Telling(ABC):
    """Tells one answer, as bytes of events or whole."""

    def __init__(self, model: str) -> None:
        """``model`` is what the answer says that it comes from."""
        self.model = model
        self.blocks = Blocks()

    @abstractmethod
    def begin(self) -> bytes:
        """The events that come before anything is said."""

    @abstractmethod
    def alive(self) -> bytes:
        """An event that says that the answer is still being worked on."""

    @abstractmethod
    def step(self, step: Step) -> bytes:
        """The events of one step."""

    @abstractmethod
    def end(self, generated: Generated) -> bytes:
        """The events after the last piece."""

    @abstractmethod
    def failed(self, answer: Answer) -> bytes:
        """The last event of an answer that broke off."""

    @abstractmethod
    def whole(self, generated: Generated) -> dict[str, Any]:
        """The answer as one object, once all was taken."""

    def take(self, piece: Piece) -> bytes:
        """The events of a piece. Raises UpstreamError."""
        return b"".join(map(self.step, self.blocks.take(piece)))


class Asked(NamedTuple):
    """A request of a dialect, understood."""

    chat: ChatFields
    """The same for /v1/chat/completions."""
    media: tuple[Media, ...]
    """Its images, each with the field that the client sent it in."""
    telling: Callable[[str], Telling]
    """Begins to tell the answer of a model."""
    field: str
    """The one that may be too long for the model."""


def event(name: str, content: dict[str, Any]) -> bytes:
    """One server-sent event; its type stands in it a second time."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode({"type": name, **content}))


def content_of(parts: list[Part]) -> str | list[Part]:
    """What a message holds: text as it is, since some templates take no parts."""
    if len(parts) == 1 and parts[0].type == "text":
        return parts[0].text or ""
    return parts or ""


def image_part(url: str, media: list[Media], where: str, detail: str | None = None) -> Part:
    """An image for the chat, noted in ``media``. Raises BadRequestError unless it is data."""
    if not url.startswith("data:"):
        raise BadRequestError("images must be sent as data; AirLab fetches nothing for a client", param=where)
    media.append(Media("image", url, where))
    return Part("image_url", image_url=ImageUrl(url, detail))


def not_served(what: str, type_: str, served: str, where: str) -> BadRequestError:
    """Says that a part of a request is of a type that is not served, and which ones are."""
    return BadRequestError(f"{what} of type {type_[:80]!r} are not served here; there are: {served}", param=where)


def only_tool(tools: list[Tool] | None, name: str, where: str) -> list[Tool]:
    """The one tool that has to be called: alone on offer, since llama-server knows no choice by name."""
    for tool in tools or ():
        if tool.function.name == name:
            return [tool]
    raise BadRequestError(f"tool_choice names {name[:80]!r}, which is none of the request's tools", param=where)
